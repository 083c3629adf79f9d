// SPDX-License-Identifier: Apache-2.0
import { test } from "uvu";
import * as assert from "uvu/assert";
import { code, RemoraError } from "../errors.ts";
import type { BtfType, ObjectParameter } from "../kernel/port.ts";
import type { ParameterText } from "../model.ts";
import { readParameters, setParameter } from "./parameters.ts";
import { BadValue } from "./value.ts";

const int = (size: number, signed = false, name = signed ? "int" : "unsigned int"): BtfType => ({
  kind: "int",
  name,
  size,
  signed,
  encoding: "int",
});
const bool: BtfType = { kind: "int", name: "_Bool", size: 1, signed: false, encoding: "bool" };
const array = (element: BtfType, length: number): BtfType => ({
  kind: "array",
  size: element.size * length,
  length,
  element,
});
const char = int(1, true, "char");
const struct = (name: string, size: number): BtfType => ({ kind: "struct", name, size, members: [] });
const mode: BtfType = {
  kind: "enum",
  name: "mode",
  size: 4,
  signed: true,
  values: [
    { name: "MODE_OFF", value: -1n },
    { name: "MODE_ON", value: 1n },
  ],
};

function global(name: string, type: BtfType, tags: string[] = [], initial = Buffer.alloc(type.size)): ObjectParameter {
  return { name, type, tags: tags.map((tag) => `remora:${tag}`), initial };
}
const read = (...parameters: ObjectParameter[]) => readParameters("/p/x.bpf.o", { parameters });

/** Sets a lone parameter and returns its bytes as hex. */
function bytesOf(type: BtfType, tags: string[], value: ParameterText): string {
  const [first] = setParameter(read(global("p", type, tags)), "p", value).bytes;
  return first?.bytes.toString("hex") ?? "";
}

const good: [type: BtfType, tags: string[], value: ParameterText, hex: string, shown: ParameterText][] = [
  [int(1), [], "255", "ff", 255],
  [int(2), [], "0x1234", "3412", 0x1234],
  [int(4), [], 7, "07000000", 7],
  [int(4), [], " 7 ", "07000000", 7],
  [int(8), [], "18446744073709551615", "ff".repeat(8), "18446744073709551615"],
  [int(1, true), [], "-128", "80", -128],
  [int(4, true), [], -1, "ffffffff", -1],
  [int(8, true), [], "-9223372036854775808", "0000000000000080", "-9223372036854775808"],
  [bool, [], "true", "01", true],
  [bool, [], false, "00", false],
  [bool, [], 1, "01", true],
  [mode, [], "MODE_OFF", "ffffffff", "MODE_OFF"],
  [mode, [], "mode_on", "01000000", "MODE_ON"],
  [mode, [], "1", "01000000", "MODE_ON"],
  [array(char, 4), [], "abc", "61626300", "abc"],
  [array(char, 4), [], " a ", "20612000", " a "],
  [array(char, 4), [], "", "00000000", ""],
  [array(char, 4), [], "é", "c3a90000", "é"],
  [int(8), ["unit=bitrate"], "1.5Gbit", "002f685900000000", "1.5Gbit"],
  [int(4), ["unit=size"], "64KiB", "00000100", "64KiB"],
  [int(8), ["unit=duration"], "20ms", "002d310100000000", "20ms"],
  [int(4), ["unit=percent"], 0.5, "88130000", "0.5%"],
  [int(1), ["unit=dscp"], "AF41", "22", "AF41"],
  [int(4), ["unit=ipv4"], "10.1.2.3", "0a010203", "10.1.2.3"],
  [array(int(1), 4), ["unit=ipv4"], "10.1.2.3", "0a010203", "10.1.2.3"],
  [struct("in6_addr", 16), ["unit=ipv6"], "2001:db8::1", "20010db8000000000000000000000001", "2001:db8::1"],
  [array(int(1), 16), ["unit=address"], "10.1.2.3", "00000000000000000000ffff0a010203", "10.1.2.3"],
  [struct("remora_prefix", 24), ["unit=prefix"], "any", "00".repeat(24), "any"],
  [int(4), ["choice=allow=1", "choice=deny=2"], "Deny", "02000000", "deny"],
  [array(int(2), 4), [], "80, 443;\n 8080,", "5000bb01901f0000", "80; 443; 8080"],
  [array(int(2), 2), [], "", "00000000", ""],
  [array(int(2), 2), [], 80, "50000000", "80"],
  [array(array(int(1), 4), 2), ["unit=ipv4"], "10.0.0.1, 10.0.0.2", "0a0000010a000002", "10.0.0.1; 10.0.0.2"],
  [array(array(char, 3), 2), [], "ab, c", "616200630000", "ab; c"],
];
for (const [type, tags, value, hex, shown] of good) {
  test(`${JSON.stringify(value)} for ${type.kind} of ${type.size} ${tags}`, () => {
    const parameters = read(global("p", type, tags));
    const setting = setParameter(parameters, "p", value);
    assert.is(setting.bytes[0]?.bytes.toString("hex"), hex);
    assert.is(setting.shown, shown);
    assert.is(bytesOf(type, tags, setting.shown), hex, "what is shown can be written again");
  });
}

const bad: [type: BtfType, tags: string[], value: ParameterText, part: string][] = [
  [int(1), [], "256", '"256" is out of range, 0 to 255 is possible'],
  [int(1), [], "-1", "0 to 255"],
  [int(1, true), [], "128", "-128 to 127"],
  [int(8), [], "18446744073709551616", "0 to 18446744073709551615"],
  [int(4), [], 1.5, "whole number"],
  [int(8), [], 2 ** 53, "write it in quotes"],
  [int(8), [], 1e30, "write it in quotes"],
  [int(4), [], true, "whole number"],
  [int(4), [], "", "whole number"],
  [bool, [], "2", "true or false"],
  [mode, [], "MODE_UN", 'did you mean "MODE_ON"?'],
  [mode, [], "0", "one of MODE_OFF, MODE_ON"],
  [array(char, 4), [], "abcd", "is 4 bytes long, at most 3"],
  [array(char, 4), [], "éé", "is 4 bytes long"],
  [array(char, 4), [], "a\0", "NUL"],
  [int(4), ["unit=bitrate"], "10Gbit", "is out of range, 0bit to 4294967.295kbit"],
  [int(8), ["unit=bitrate", "min=8kbit"], "7999", "8kbit or more is possible"],
  [int(8), ["unit=bitrate", "min=8kbit", "max=1Gbit"], "2Gbit", "8kbit to 1Gbit is possible"],
  [int(4), ["unit=percent", "max=100%"], "100.1%", "0% to 100%"],
  [int(4), ["choice=allow=1", "choice=deny=2"], "alow", 'one of allow, deny, did you mean "allow"?'],
  [int(4), ["choice=allow=1", "choice=deny=2"], 1, "one of allow, deny"],
  [array(int(2), 2), [], "1,2,3", "has 3 elements, at most 2"],
  [array(int(1), 2), [], "1,256", "0 to 255"],
  [struct("config", 8), [], "1", "type struct config cannot be set"],
  [{ kind: "float", name: "double", size: 8 }, [], "1", "type double cannot be set"],
];
for (const [type, tags, value, part] of bad) {
  test(`refused: ${JSON.stringify(value)} for ${type.kind} of ${type.size} ${tags}`, () => {
    assert.throws(
      () => bytesOf(type, tags, value),
      (error: unknown) => {
        assert.instance(error, BadValue);
        assert.ok(String(error).includes(part), `${error}\nlacks: ${part}`);
        return true;
      },
    );
  });
}

test("a list of rules sets its counter, which is no parameter of its own", () => {
  const counted = read(
    global("rules", array(struct("remora_rule", 40), 3), ["unit=rule", "count=rules_count"]),
    global("rules_count", int(4)),
  );
  assert.equal([...counted.keys()], ["rules"]);
  const setting = setParameter(counted, "rules", "deny tcp 10.0.0.0/8 80-90; allow\n");
  assert.equal(
    setting.bytes.map(({ name }) => name),
    ["rules", "rules_count"],
  );
  assert.is(setting.bytes[0]?.bytes.length, 120);
  assert.is(setting.bytes[1]?.bytes.toString("hex"), "02000000");
  assert.is(setting.shown, "deny tcp 10.0.0.0/8 80-90; allow");
  assert.throws(() => setParameter(counted, "rules_count", 1), /no parameter "rules_count": it has rules/);
});

test("an unknown parameter is named with those there are", () => {
  assert.throws(() => setParameter(read(), "rate", 1), /no parameter "rate": it has none/);
  const parameters = read(global("rate", int(4)), global("burst", int(4)));
  assert.throws(
    () => setParameter(parameters, "raet", 1),
    /no parameter "raet", did you mean "rate"\? it has rate, burst/,
  );
  assert.throws(() => setParameter(parameters, "__proto__", 1), /no parameter "__proto__"/);
});

test("parameters describe themselves for people", () => {
  const initial = Buffer.from("8096980000000000", "hex");
  const tags = ["unit=bitrate", "min=8kbit", "help=bits per second = what is let through"];
  const [rate] = read(global("rate", int(8), tags, initial)).values();
  assert.is(rate?.type, "u64");
  assert.is(rate?.unit, "bitrate");
  assert.is(rate?.default, "10Mbit");
  assert.is(rate?.min, "8kbit");
  assert.is(rate?.max, null);
  assert.is(rate?.help, "bits per second = what is let through");
  assert.match(rate?.expects ?? "", "10Mbit");

  const [ports] = read(global("ports", array(int(2), 4), [], Buffer.from("5000000016000000", "hex"))).values();
  assert.is(ports?.type, "u16[4]");
  assert.is(ports?.default, "80; 0; 22");
  const [flag] = read(global("flag", bool)).values();
  assert.is(flag?.default, false);
  const [state] = read(global("state", mode, ["max=MODE_ON"])).values();
  assert.equal(state?.choices, ["MODE_OFF", "MODE_ON"]);
  assert.is(state?.max, "MODE_ON");
  const [config] = read(global("config", struct("config", 8))).values();
  assert.is(config?.default, "");
  assert.match(config?.expects ?? "", "cannot be set");
});

test("tags of others, and none at all, are fine", () => {
  assert.is(read({ ...global("p", int(4)), tags: ["kernel", "unit=bitrate"] }).get("p")?.unit, null);
});

const faults: [part: string, ...globals: ObjectParameter[]][] = [
  ['"remora:colour=red" has an unknown key', global("p", int(4), ["colour=red"])],
  ['"remora:unit" is not of the form', global("p", int(4), ["unit"])],
  ["comes after another unit", global("p", int(4), ["unit=size", "unit=size"])],
  ['unit "furlong" is unknown', global("p", int(4), ["unit=furlong"])],
  ['unit "constructor" is unknown', global("p", int(4), ["unit=constructor"])],
  ["unit bitrate is for an unsigned integer, and its type is s32", global("p", int(4, true), ["unit=bitrate"])],
  ["unit percent is for an unsigned integer of 4 or 8 bytes", global("p", int(2), ["unit=percent"])],
  ["unit rule is for struct remora_rule", global("p", struct("rule", 40), ["unit=rule"])],
  ["its min: ", global("p", int(4), ["min=low"])],
  ["does not fit its type u8", global("p", int(1), ["max=256"])],
  ["min 5 is above its max 4", global("p", int(1), ["min=5", "max=4"])],
  ["its choice deny: ", global("p", int(1), ["choice=deny=x"])],
  ["not of the form choice=NAME=NUMBER", global("p", int(1), ["choice=deny"])],
  ["its min is for numbers", global("p", array(char, 4), ["min=5"])],
  ["cannot have min, max or choice", global("p", struct("s", 4), ["min=5"])],
  ["names no integer global", global("p", array(int(1), 4), ["count=n"])],
  ["its count is for arrays", global("p", int(1), ["count=n"]), global("n", int(4))],
  [
    "another list's already",
    global("p", array(int(1), 4), ["count=n"]),
    global("q", array(int(1), 4), ["count=n"]),
    global("n", int(4)),
  ],
  ["too small for 256", global("p", array(int(1), 256), ["count=n"]), global("n", int(1))],
];
for (const [part, ...globals] of faults) {
  test(`a fault of the object: ${part}`, () => {
    assert.throws(
      () => read(...globals),
      (error: unknown) => {
        assert.instance(error, RemoraError);
        assert.is((error as RemoraError).code, code.badObject);
        for (const piece of ["/p/x.bpf.o: parameter ", part])
          assert.ok(String(error).includes(piece), `${error}\nlacks: ${piece}`);
        return true;
      },
    );
  });
}

test.run();
