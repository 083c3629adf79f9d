// SPDX-License-Identifier: Apache-2.0
//
//     r6 = ctx                                                         or, see inplace.h: home = ctx
//     [counters[position].headPackets += 1, headBytes += skb->len]     only where countHead
//     [report the packet]                                              only in a generation that traces, see below
//     r0 = entry(ctx)                                                  or: go to the entry; r6 = home
//     [report the verdict]
//     verdict not in proceedOn: goto ended
//     last position: return -1
//     tail_call(ctx, chain, position + 1)
//     r7 = SHOT or -1, r8 = "broken", goto count                       the tail call fell through
//   ended:
//     r7 = verdict, r8 = its place among the endings
//   count:
//     [ending = {r8 + 1, r7, the program's name}]                      for each program before that wants to know
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

#include <algorithm>
#include <cstddef>
#include <cstring>

namespace remora {
namespace {

// A row of counters, in words; `counterLayout` and `endings` of plugin/kernel/port.ts.
enum Word { kHeadPackets = 0, kHeadBytes = 1, kEndedBytes = 2, kEndings = 3 };
// Verdicts 0 (ok) to 8 (trap) are their own index.
enum Ending { kTrap = TC_ACT_TRAP, kUnspec = 9, kOther = 10, kBroken = 11 };

constexpr int16_t kWord = 8;
constexpr int16_t kKey = -4;  // the lookup's key, on the stack
constexpr int32_t kNext = -1;  // TCX_NEXT, the same number as TC_ACT_UNSPEC

enum Register : uint8_t { r0, r1, r2, r3, r4, r6 = 6, r7, r8, r9, r10 };

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
  void remainder(Register dst, int32_t by) { emit(BPF_ALU64 | BPF_MOD | BPF_K, dst, 0, 0, by); }
  void shiftLeft(Register dst, int32_t by) { emit(BPF_ALU64 | BPF_LSH | BPF_K, dst, 0, 0, by); }
  void load64(Register dst, Register base, int16_t off) { emit(BPF_LDX | BPF_MEM | BPF_DW, dst, base, off, 0); }
  void load32(Register dst, Register base, int16_t off) { emit(BPF_LDX | BPF_MEM | BPF_W, dst, base, off, 0); }
  void store64(Register base, int16_t off, Register src) { emit(BPF_STX | BPF_MEM | BPF_DW, base, src, off, 0); }
  void store32(Register base, int16_t off, Register src) { emit(BPF_STX | BPF_MEM | BPF_W, base, src, off, 0); }
  void store32(Register base, int16_t off, int32_t value) { emit(BPF_ST | BPF_MEM | BPF_W, base, 0, off, value); }
  void map(Register dst, int fd) {
    emit(BPF_LD | BPF_IMM | BPF_DW, dst, BPF_PSEUDO_MAP_FD, 0, fd);
    emit(0, 0, 0, 0, 0);
  }
  void set64(Register dst, uint64_t value) {
    emit(BPF_LD | BPF_IMM | BPF_DW, dst, 0, 0, static_cast<int32_t>(value));
    emit(0, 0, 0, 0, static_cast<int32_t>(value >> 32));
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
  // A call to what follows on all this.
  void callBeyond() {
    calls_.push_back(insns_.size());
    emit(BPF_JMP | BPF_CALL, 0, BPF_PSEUDO_CALL, 0, 0);
  }
  size_t here() const { return insns_.size(); }
  std::vector<bpf_insn> finish() {
    for (size_t at : calls_) insns_[at].imm = static_cast<int32_t>(insns_.size() - at - 1);
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

// r0 = the value in an array, or none (which cannot be, but the verifier wants it asked).
void lookUp(Assembler &code, int map, uint32_t index, Assembler::Label &none) {
  code.store32(r10, kKey, static_cast<int32_t>(index));
  code.map(r1, map);
  code.move(r2, r10);
  code.add(r2, kKey);
  code.helper(BPF_FUNC_map_lookup_elem);
  code.ifEqual(r0, 0, none);
}

// r0 = this position's row of counters.
void lookUpRow(Assembler &code, const PrologueSpec &spec, Assembler::Label &none) {
  lookUp(code, spec.counters, spec.position, none);
}

// Spoils r2, where the context may be.
void addLength(Assembler &code, Word word, Register context = r6) {
  code.load32(r2, context, offsetof(__sk_buff, len));
  code.load64(r1, r0, word * kWord);
  code.add(r1, r2);
  code.store64(r0, word * kWord, r1);
}

void increment(Assembler &code, int16_t offset) {
  code.load64(r1, r0, offset);
  code.add(r1, 1);
  code.store64(r0, offset, r1);
}

// r1 goes to where it waits, and comes back from there.
void keepContext(Assembler &code, const ContextHome &home) {
  if (home.reg)
    code.move(static_cast<Register>(home.reg), r1);
  else
    code.store64(r10, home.slot, r1);
}
void takeContext(Assembler &code, Register to, const ContextHome &home) {
  if (home.reg == to) return;
  if (home.reg)
    code.move(to, static_cast<Register>(home.reg));
  else
    code.load64(to, r10, home.slot);
}

// ---- endings ----------------------------------------------------------------------------------------------------

// `struct remora_ending` of bpf/include/remora/ending.h.
enum EndingValue : int16_t { kEnding = 0, kEndingVerdict = 4, kEndingProgram = 8, kEndingName = 16 };

// Tells a program before this one how the packet has ended: r8 among the endings, with verdict r7.
void tellEnding(Assembler &code, int map, const std::string &name) {
  Assembler::Label none;
  lookUp(code, map, 0, none);
  code.move(r1, r8);
  code.add(r1, 1);
  code.store32(r0, kEnding, r1);
  code.store32(r0, kEndingVerdict, r7);
  char text[kEndingName] = {};
  memcpy(text, name.data(), std::min(name.size(), sizeof(text) - 1));
  for (int16_t at = 0; at < kEndingName; at += kWord) {
    uint64_t word;
    memcpy(&word, text + at, sizeof(word));
    code.set64(r1, word);
    code.store64(r0, static_cast<int16_t>(kEndingProgram + at), r1);
  }
  code.bind(none);
}

// ---- tracing ----------------------------------------------------------------------------------------------------
//
// A stage that traces reports to a ring buffer, which no program's licence forbids (bpf_perf_event_output is for GPL
// programs alone) and which keeps the order between CPUs. What it knows of a packet lies in a per-CPU map, and so does
// the event while it is made, so that a program has the same stack with tracing as without.
//
//     head:   r9 = the packet's number, 0 where the sample leaves it out;  state.packet = r9;  report "arrived"
//     others: r9 = state.packet
//     call entry(ctx)
//     state.packet = r9      a program that sends packets may have run this chain meanwhile, on this CPU, for another
//     report "returned"

// The state's layout; `traceLayout` of plugin/kernel/port.ts.
enum State : int16_t { kCounter = 0, kPacket = 8, kLost = 16, kEvent = 24 };
enum Event : int16_t {
  kId = kEvent + 0,
  kTime = kEvent + 8,
  kCpu = kEvent + 16,
  kPlace = kEvent + 20,
  kVerdict = kEvent + 24,
  kLength = kEvent + 28,
  kCaptured = kEvent + 32,
  kMark = kEvent + 36,
  kBytes = kEvent + 40,  // kHeader
};
enum Kind { kArrived = 0, kReturned = 1, kGone = 2 };
constexpr int32_t kHeader = 40;

// r8 = the state, or none.
void lookUpState(Assembler &code, const TraceSpec &trace, Assembler::Label &none) {
  lookUp(code, trace.state, 0, none);
  code.move(r8, r0);
}

// Reports the packet r9, with r7 for a verdict; r8 is the state. "arrived" takes bytes along, and spoils r7.
void report(Assembler &code, const PrologueSpec &spec, Kind kind) {
  auto &trace = *spec.trace;
  code.store64(r8, kId, r9);
  code.helper(BPF_FUNC_ktime_get_ns);
  code.store64(r8, kTime, r0);
  code.helper(BPF_FUNC_get_smp_processor_id);
  code.store32(r8, kCpu, r0);
  code.store32(r8, kPlace, static_cast<int32_t>(spec.position | kind << 16 | trace.tag << 24));
  if (kind == kArrived)
    code.store32(r8, kVerdict, 0);
  else
    code.store32(r8, kVerdict, r7);
  code.load32(r1, r6, offsetof(__sk_buff, len));
  code.store32(r8, kLength, r1);
  code.load32(r1, r6, offsetof(__sk_buff, mark));
  code.store32(r8, kMark, r1);
  if (kind == kArrived) {
    Assembler::Label fits, taken;
    code.load32(r7, r6, offsetof(__sk_buff, len));
    code.ifAtMost(r7, static_cast<int32_t>(trace.bytes), fits);
    code.set(r7, static_cast<int32_t>(trace.bytes));
    code.bind(fits);
    code.ifAtMost(r7, 0, taken);
    code.move(r1, r6);
    code.set(r2, 0);
    code.move(r3, r8);
    code.add(r3, kBytes);
    code.move(r4, r7);
    code.helper(BPF_FUNC_skb_load_bytes);
    code.ifEqual(r0, 0, taken);
    code.set(r7, 0);
    code.bind(taken);
    code.store32(r8, kCaptured, r7);
    code.move(r3, r7);
    code.add(r3, kHeader);
  } else {
    code.store32(r8, kCaptured, 0);
    code.set(r3, kHeader);
  }
  Assembler::Label reported;
  code.map(r1, trace.events);
  code.move(r2, r8);
  code.add(r2, kEvent);
  code.set(r4, BPF_RB_NO_WAKEUP);  // the reader looks by itself
  code.helper(BPF_FUNC_ringbuf_output);
  code.ifEqual(r0, 0, reported);
  code.load64(r1, r8, kLost);
  code.add(r1, 1);
  code.store64(r8, kLost, r1);
  code.bind(reported);
}

// Before the entry: r9 = the packet's number, or 0.
void beginTrace(Assembler &code, const PrologueSpec &spec) {
  Assembler::Label begun;
  code.set(r9, 0);
  lookUpState(code, *spec.trace, begun);
  if (spec.position > 0) {
    code.load64(r9, r8, kPacket);
  } else {
    Assembler::Label chosen;
    code.load64(r9, r8, kCounter);
    code.add(r9, 1);
    code.store64(r8, kCounter, r9);
    if (spec.trace->sample > 1) {
      code.move(r1, r9);
      code.remainder(r1, static_cast<int32_t>(spec.trace->sample));
      code.ifEqual(r1, 0, chosen);
      code.set(r9, 0);
      code.bind(chosen);
    }
    code.store64(r8, kPacket, r9);
    code.ifEqual(r9, 0, begun);
    report(code, spec, kArrived);
  }
  code.bind(begun);
}

// After the entry, whose verdict is and stays in r0.
void traceVerdict(Assembler &code, const PrologueSpec &spec) {
  Assembler::Label traced;
  code.move32(r7, r0);
  lookUpState(code, *spec.trace, traced);
  code.store64(r8, kPacket, r9);
  code.ifEqual(r9, 0, traced);
  report(code, spec, kReturned);
  code.bind(traced);
  code.move32(r0, r7);
}

// The tail call fell through; r7 is what becomes of the packet.
void traceBroken(Assembler &code, const PrologueSpec &spec) {
  Assembler::Label traced;
  code.ifEqual(r9, 0, traced);
  lookUpState(code, *spec.trace, traced);
  report(code, spec, kGone);
  code.bind(traced);
}

}  // namespace

Prologue generatePrologue(const PrologueSpec &spec) {
  Assembler code;
  Assembler::Label entry, proceed, ended, count, done;
  size_t verdict = 0;

  // In place, no register that the entry names is written but r0 to r2: what it has not set it must not find set, or the
  // verifier would not refuse what it refuses elsewhere. (r0: see `homeBeside`.)
  if (spec.home)
    keepContext(code, *spec.home);
  else
    code.move(r6, r1);
  if (spec.countHead) {
    Assembler::Label uncounted;
    lookUpRow(code, spec, uncounted);
    increment(code, kHeadPackets * kWord);
    if (spec.home) takeContext(code, r2, *spec.home);
    addLength(code, kHeadBytes, spec.home ? r2 : r6);
    code.bind(uncounted);
  }

  if (spec.trace) beginTrace(code, spec);
  if (spec.home) {
    if (spec.countHead) takeContext(code, r1, *spec.home);
    code.jump(entry);
    verdict = code.here();
    takeContext(code, r6, *spec.home);
  } else {
    code.move(r1, r6);
    code.callBeyond();
  }
  if (spec.trace) traceVerdict(code, spec);
  // Where nothing goes on there is no code for it either: the verifier refuses what is never reached.
  for (int32_t passed : spec.proceedOn) code.ifEqual32(r0, passed, proceed);
  if (!spec.proceedOn.empty()) code.jump(ended);
  code.bind(proceed);

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
    if (spec.trace) traceBroken(code, spec);
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
  for (int map : spec.endings) tellEnding(code, map, spec.name);
  lookUpRow(code, spec, done);
  addLength(code, kEndedBytes);
  code.shiftLeft(r8, 3);
  code.add(r0, r8);
  increment(code, kEndings * kWord);
  code.bind(done);
  code.move32(r0, r7);
  code.exit();
  code.bind(entry);
  return {code.finish(), verdict};
}

}  // namespace remora
