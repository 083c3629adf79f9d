// SPDX-License-Identifier: Apache-2.0
import { test } from "uvu";
import * as assert from "uvu/assert";
import { dscpRule, rule } from "./rule.ts";
import { BadValue } from "./value.ts";

const noPrefix = "00".repeat(24);
const anyPorts = "0000ffff";
const ten8 = "00000000000000000000ffff0a000000" + "6804" + "000000000000";

const rules: [text: string, canonical: string, hex: string][] = [
  ["allow", "allow", `${noPrefix}${anyPorts}${anyPorts}01000000${"00000000"}`],
  ["deny tcp 10.0.0.0/8 80-90", "deny tcp 10.0.0.0/8 80-90", `${ten8}${anyPorts}50005a000200060500000000`],
  ["ALLOW  Egress UDP 10.0.0.0/8 53", "allow egress udp 10.0.0.0/8 53", `${ten8}${anyPorts}350035000102110500000000`],
  ["allow ingress tcp any sport 443", "allow ingress tcp sport 443", `${noPrefix}bb01bb01${anyPorts}0101060300000000`],
  ["deny proto 47", "deny proto 47", `${noPrefix}${anyPorts}${anyPorts}02002f0100000000`],
  ["deny proto 0", "deny proto 0", `${noPrefix}${anyPorts}${anyPorts}0200000100000000`],
  ["deny proto 6", "deny tcp", `${noPrefix}${anyPorts}${anyPorts}0200060100000000`],
  ["deny 0-65535", "deny 0-65535", `${noPrefix}${anyPorts}${anyPorts}0200000400000000`],
  ["deny 1 sport 2-3", "deny 1 sport 2-3", `${noPrefix}02000300010001000200000600000000`],
];
for (const [text, canonical, hex] of rules) {
  test(text, () => {
    assert.is(rule.encode(text).toString("hex"), hex);
    assert.is(rule.decode(rule.encode(text)), canonical);
    assert.equal(rule.encode(canonical), rule.encode(text));
  });
}

const wrong: [text: string, part: string][] = [
  ["", "must begin with allow or deny"],
  ["drop tcp", "must begin with allow or deny"],
  ["deny icmp 80", "icmp has no ports"],
  ["deny icmp sport 80", "icmp has no ports"],
  ["deny proto 47 80", "protocol 47 has no ports"],
  ["deny icmp 2001:db8::/32", "use icmpv6"],
  ["deny icmpv6 10.0.0.0/8", "use icmp with"],
  ["deny tcp 90-80", "end before they begin"],
  ["deny tcp 65536", "from 0 to 65535"],
  ["deny tcp 80-", "is not a port"],
  ["deny sport", "is not a port"],
  ["deny proto", "0 to 255"],
  ["deny proto 256", "0 to 255"],
  ["deny proto tcp", "0 to 255"],
  ["deny tcpp", '"tcpp" is not understood'],
  ["deny 10.0.0.0/8 tcp", '"tcp" is out of place'],
  ["deny 80 10.0.0.0/8", '"10.0.0.0/8" is out of place'],
  ["deny tcp deny", '"deny" is out of place'],
  ["deny 10.0.0.1/8", "the network is 10.0.0.0/8"],
  ["deny constructor", "is not understood"],
];
for (const [text, part] of wrong) {
  test(`refused: "${text}": ${part}`, () => {
    assert.throws(
      () => rule.encode(text),
      (error: unknown) => error instanceof BadValue && error.message.includes(part),
    );
  });
}

const marking: [text: string, canonical: string, action: number][] = [
  ["EF", "EF", 46],
  ["af41 egress udp 10.0.0.0/8 5060-5090", "AF41 egress udp 10.0.0.0/8 5060-5090", 34],
  ["46 tcp 443", "EF tcp 443", 46],
  ["63 80 sport 1-2", "63 80 sport 1-2", 63],
  ["keep 2001:db8::/32", "keep 2001:db8::/32", 64],
];
for (const [text, canonical, action] of marking) {
  test(`marking: ${text}`, () => {
    const bytes = dscpRule.encode(text);
    assert.is(dscpRule.decode(bytes), canonical);
    assert.equal(dscpRule.encode(canonical), bytes);
    // But for the action it is the rule that acl would have.
    const rest = rule.encode(canonical.replace(/^\S+/, "deny"));
    rest[32] = action;
    assert.equal(bytes, rest);
  });
}
for (const [text, part] of [
  ["", "must begin with a DSCP such as EF"],
  ["deny tcp", "must begin with a DSCP"],
  ["64 tcp", "must begin with a DSCP"],
  ["tcp EF", "must begin with a DSCP"],
  ["EF tcp AF41", '"af41" is out of place: dscp [ingress|egress]'],
  ["EF icmp 80", "icmp has no ports"],
] as const) {
  test(`marking refused: "${text}": ${part}`, () => {
    assert.throws(
      () => dscpRule.encode(text),
      (error: unknown) => error instanceof BadValue && error.message.includes(part),
    );
  });
}

test.run();
