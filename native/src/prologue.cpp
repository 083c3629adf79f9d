// SPDX-License-Identifier: Apache-2.0
//
//     r6 = ctx
//     [counters[position].headPackets += 1, headBytes += skb->len]     only where countHead
//     for each entry:
//       call entry(ctx)
//       verdict not in proceedOn: goto ended
//     last position: return -1
//     tail_call(ctx, chain, position + 1)
//     r7 = SHOT or -1, r8 = "broken", goto count                       the tail call fell through
//   ended:
//     r7 = verdict, r8 = its place among the endings
//   count:
//     counters[position].endedBytes += skb->len, endings[r8] += 1
//     return r7
//
// What counting costs: a packet that goes on runs none of it but at the head. Packets and bytes of a position are those
// of the head before it, less what ended in between; so only the head and the place where a packet ends count, once
// per packet each: a lookup in a per-CPU array, which the verifier inlines, and two additions. Those need not be
// atomic: the counters are per CPU, and TC programs run with bottom halves off, so nothing else on this CPU comes
// between a load and its store.
//
// Verdicts are compared in 32 bits: `return -1` of an int function may leave 0x00000000ffffffff.
#include "prologue.h"

#include <linux/pkt_cls.h>

#include <cstddef>

namespace remora {
namespace {

// A row of counters, in words; `counterLayout` and `endings` of plugin/kernel/port.ts.
enum Word { kHeadPackets = 0, kHeadBytes = 1, kEndedBytes = 2, kEndings = 3 };
// Verdicts 0 (ok) to 8 (trap) are their own index.
enum Ending { kTrap = TC_ACT_TRAP, kUnspec = 9, kOther = 10, kBroken = 11 };

constexpr int16_t kWord = 8;
constexpr int16_t kKey = -4;  // the lookup's key, on the stack
constexpr int32_t kNext = -1;  // TCX_NEXT, the same number as TC_ACT_UNSPEC

enum Register : uint8_t { r0, r1, r2, r3, r6 = 6, r7, r8, r10 = 10 };

// Collects instructions; jumps go to labels that are bound later.
class Assembler {
 public:
  struct Label {
    std::vector<size_t> jumps;
  };

  void emit(uint8_t code, uint8_t dst, uint8_t src, int16_t off, int32_t imm) {
    bpf_insn insn{};
    insn.code = code;
    insn.dst_reg = dst & 0xf;
    insn.src_reg = src & 0xf;
    insn.off = off;
    insn.imm = imm;
    insns_.push_back(insn);
  }
  void move(Register dst, Register src) { emit(BPF_ALU64 | BPF_MOV | BPF_X, dst, src, 0, 0); }
  void move32(Register dst, Register src) { emit(BPF_ALU | BPF_MOV | BPF_X, dst, src, 0, 0); }
  void set(Register dst, int32_t value) { emit(BPF_ALU64 | BPF_MOV | BPF_K, dst, 0, 0, value); }
  void add(Register dst, int32_t value) { emit(BPF_ALU64 | BPF_ADD | BPF_K, dst, 0, 0, value); }
  void add(Register dst, Register src) { emit(BPF_ALU64 | BPF_ADD | BPF_X, dst, src, 0, 0); }
  void shiftLeft(Register dst, int32_t by) { emit(BPF_ALU64 | BPF_LSH | BPF_K, dst, 0, 0, by); }
  void load64(Register dst, Register base, int16_t off) { emit(BPF_LDX | BPF_MEM | BPF_DW, dst, base, off, 0); }
  void load32(Register dst, Register base, int16_t off) { emit(BPF_LDX | BPF_MEM | BPF_W, dst, base, off, 0); }
  void store64(Register base, int16_t off, Register src) { emit(BPF_STX | BPF_MEM | BPF_DW, base, src, off, 0); }
  void store32(Register base, int16_t off, int32_t value) { emit(BPF_ST | BPF_MEM | BPF_W, base, 0, off, value); }
  void map(Register dst, int fd) {
    emit(BPF_LD | BPF_IMM | BPF_DW, dst, BPF_PSEUDO_MAP_FD, 0, fd);
    emit(0, 0, 0, 0, 0);
  }
  void helper(int32_t id) { emit(BPF_JMP | BPF_CALL, 0, 0, 0, id); }
  void exit() { emit(BPF_JMP | BPF_EXIT, 0, 0, 0, 0); }
  void jump(Label &to) { branch(to, BPF_JMP | BPF_JA, r0, 0); }
  void ifEqual(Register dst, int32_t value, Label &to) { branch(to, BPF_JMP | BPF_JEQ | BPF_K, dst, value); }
  void ifEqual32(Register dst, int32_t value, Label &to) { branch(to, BPF_JMP32 | BPF_JEQ | BPF_K, dst, value); }
  void ifAtMost(Register dst, int32_t value, Label &to) { branch(to, BPF_JMP | BPF_JLE | BPF_K, dst, value); }
  void bind(Label &label) {
    for (size_t at : label.jumps) insns_[at].off = static_cast<int16_t>(insns_.size() - at - 1);
    label.jumps.clear();
  }
  // A call to an instruction that is counted from the end of all this.
  void callBeyond(uint32_t target) {
    calls_.push_back(insns_.size());
    emit(BPF_JMP | BPF_CALL, 0, BPF_PSEUDO_CALL, 0, static_cast<int32_t>(target));
  }
  std::vector<bpf_insn> finish() {
    for (size_t at : calls_) insns_[at].imm += static_cast<int32_t>(insns_.size() - at - 1);
    return std::move(insns_);
  }

 private:
  void branch(Label &to, uint8_t code, Register dst, int32_t value) {
    to.jumps.push_back(insns_.size());
    emit(code, dst, 0, 0, value);
  }
  std::vector<bpf_insn> insns_;
  std::vector<size_t> calls_;
};

// r0 = this position's row of counters, or none (which cannot be, but the verifier wants it asked).
void lookUpRow(Assembler &code, const PrologueSpec &spec, Assembler::Label &none) {
  code.store32(r10, kKey, static_cast<int32_t>(spec.position));
  code.map(r1, spec.counters);
  code.move(r2, r10);
  code.add(r2, kKey);
  code.helper(BPF_FUNC_map_lookup_elem);
  code.ifEqual(r0, 0, none);
}

void addLength(Assembler &code, Word word) {
  code.load32(r2, r6, offsetof(__sk_buff, len));
  code.load64(r1, r0, word * kWord);
  code.add(r1, r2);
  code.store64(r0, word * kWord, r1);
}

void increment(Assembler &code, int16_t offset) {
  code.load64(r1, r0, offset);
  code.add(r1, 1);
  code.store64(r0, offset, r1);
}

}  // namespace

std::vector<bpf_insn> generatePrologue(const PrologueSpec &spec) {
  Assembler code;
  Assembler::Label ended, count, done;

  code.move(r6, r1);
  if (spec.countHead) {
    Assembler::Label uncounted;
    lookUpRow(code, spec, uncounted);
    increment(code, kHeadPackets * kWord);
    addLength(code, kHeadBytes);
    code.bind(uncounted);
  }

  for (uint32_t entry : spec.entries) {
    Assembler::Label proceed;
    code.move(r1, r6);
    code.callBeyond(entry);
    if (spec.proceedOn.empty()) break;  // nothing goes on; the verifier refuses code that is never reached
    for (int32_t verdict : spec.proceedOn) code.ifEqual32(r0, verdict, proceed);
    code.jump(ended);
    code.bind(proceed);
  }

  if (spec.proceedOn.empty()) {
    // straight on to `ended`
  } else if (spec.position + 1 == spec.length) {
    code.set(r0, kNext);
    code.exit();
  } else {
    code.move(r1, r6);
    code.map(r2, spec.chain);
    code.set(r3, static_cast<int32_t>(spec.position + 1));
    code.helper(BPF_FUNC_tail_call);
    // It fell through, so the next position is gone or the budget of tail calls is spent: broken, never an end.
    code.set(r7, spec.closed ? TC_ACT_SHOT : kNext);
    code.set(r8, kBroken);
    code.jump(count);
  }

  code.bind(ended);
  code.move32(r7, r0);
  code.move32(r8, r0);
  code.ifAtMost(r8, kTrap, count);
  code.set(r8, kUnspec);
  code.ifEqual32(r7, TC_ACT_UNSPEC, count);
  code.set(r8, kOther);

  code.bind(count);
  lookUpRow(code, spec, done);
  addLength(code, kEndedBytes);
  code.shiftLeft(r8, 3);
  code.add(r0, r8);
  increment(code, kEndings * kWord);
  code.bind(done);
  code.move32(r0, r7);
  code.exit();
  return code.finish();
}

}  // namespace remora
