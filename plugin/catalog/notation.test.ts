// SPDX-License-Identifier: Apache-2.0
import { test } from "uvu";
import * as assert from "uvu/assert";
import { bitrate, boolean, dscp, duration, integer, type Notation, named, percent, size } from "./notation.ts";
import { BadValue } from "./value.ts";

const good: [Notation, text: string, value: bigint, canonical: string | number | boolean][] = [
  [integer, "10", 10n, 10],
  [integer, "-10", -10n, -10],
  [integer, "+10", 10n, 10],
  [integer, "007", 7n, 7],
  [integer, "0x1F", 31n, 31],
  [integer, "-0x1f", -31n, -31],
  [integer, "18446744073709551615", 18446744073709551615n, "18446744073709551615"],
  [boolean, "True", 1n, true],
  [boolean, "off", 0n, false],
  [bitrate, "10Mbit", 10_000_000n, "10Mbit"],
  [bitrate, "1.5Gbit", 1_500_000_000n, "1.5Gbit"],
  [bitrate, "1.5 gbit", 1_500_000_000n, "1.5Gbit"],
  [bitrate, "800kbit", 800_000n, "800kbit"],
  [bitrate, "1200bit", 1200n, "1.2kbit"],
  [bitrate, "1200", 1200n, "1.2kbit"],
  [bitrate, "0.001kbit", 1n, "1bit"],
  [bitrate, "1234567", 1234567n, "1234.567kbit"],
  [bitrate, "0", 0n, "0bit"],
  [bitrate, "18446744073709551615", 18446744073709551615n, "18446744073709551.615kbit"],
  [size, "64KiB", 65536n, "64KiB"],
  [size, "64ki", 65536n, "64KiB"],
  [size, "1MB", 1_000_000n, "1MB"],
  [size, "1M", 1_000_000n, "1MB"],
  [size, "1.5MiB", 1572864n, "1536KiB"],
  [size, "1500B", 1500n, "1.5kB"],
  [size, "1500", 1500n, "1.5kB"],
  [size, "1501", 1501n, "1.501kB"],
  [size, "0", 0n, "0B"],
  [duration, "20ms", 20_000_000n, "20ms"],
  [duration, "1.5s", 1_500_000_000n, "1.5s"],
  [duration, "10us", 10_000n, "10us"],
  [duration, "5ns", 5n, "5ns"],
  [duration, "2m", 120_000_000_000n, "2m"],
  [duration, "90s", 90_000_000_000n, "90s"],
  [duration, "60m", 3_600_000_000_000n, "1h"],
  [duration, "0", 0n, "0s"],
  [percent, "0.5%", 5000n, "0.5%"],
  [percent, "50", 500_000n, "50%"],
  [percent, "100%", 1_000_000n, "100%"],
  [percent, "0.0001%", 1n, "0.0001%"],
  [dscp, "ef", 46n, "EF"],
  [dscp, "AF41", 34n, "AF41"],
  [dscp, "AF13", 14n, "AF13"],
  [dscp, "CS3", 24n, "CS3"],
  [dscp, "CS0", 0n, "BE"],
  [dscp, "LE", 1n, "LE"],
  [dscp, "63", 63n, "63"],
  [dscp, "34", 34n, "AF41"],
  [dscp, "Keep", 64n, "keep"],
];
for (const [notation, text, value, canonical] of good) {
  test(`${text}: ${notation.expects}`, () => {
    assert.is(notation.parse(text), value);
    assert.is(notation.render(value), canonical);
    assert.is(notation.parse(String(canonical)), value);
  });
}

const bad: [Notation, text: string, part: string][] = [
  [integer, "", "a whole number"],
  [integer, "1.5", "a whole number"],
  [integer, "1e3", "a whole number"],
  [integer, "0x", "a whole number"],
  [integer, "1_000", "a whole number"],
  [integer, "9".repeat(100_000), "a whole number"],
  [boolean, "maybe", "true or false"],
  [boolean, "2", "true or false"],
  [bitrate, "0.3", "no whole number of bits per second"],
  [bitrate, "0.3bit", "no whole number of bits per second"],
  [bitrate, "10MB", "a bit rate"],
  [bitrate, "10Mbps", "a bit rate"],
  [bitrate, "-10Mbit", "a bit rate"],
  [bitrate, ".5Mbit", "a bit rate"],
  [bitrate, "Mbit", "a bit rate"],
  [bitrate, "10Mbit 20", "a bit rate"],
  [size, "1Mb", "capital B"],
  [size, "1.5B", "no whole number of bytes"],
  [size, "64XB", "a size"],
  [duration, "20", "unit (ns, us, ms, s, m, h) is missing"],
  [duration, "20MS", "a duration"],
  [duration, "0.5ns", "no whole number of nanoseconds"],
  [percent, "0.00001%", "no whole number of millionths"],
  [percent, "half", "a percentage"],
  [dscp, "64", "a DSCP"],
  [dscp, "AF44", "a DSCP"],
  [dscp, "CS8", "a DSCP"],
  [dscp, "", "a DSCP"],
];
for (const [notation, text, part] of bad) {
  test(`refused: "${text.slice(0, 20)}" ${part}`, () => {
    const refused = (error: unknown) =>
      error instanceof BadValue && error.message.includes(part) && error.message.length < 200;
    assert.throws(() => notation.parse(text), refused);
  });
}

test("names in any case, numbers only where they are asked for, near misses", () => {
  const values = [
    { name: "allow", value: 1n },
    { name: "deny", value: 2n },
  ];
  const choice = named(values, false);
  assert.is(choice.parse("ALLOW"), 1n);
  assert.is(choice.render(2n), "deny");
  assert.is(choice.render(7n), 7);
  assert.throws(() => choice.parse("1"), /"1" is not one of allow, deny/);
  assert.throws(() => choice.parse("alow"), /did you mean "allow"\?/);
  const enumerator = named(values, true);
  assert.is(enumerator.parse("0x2"), 2n);
  assert.throws(() => enumerator.parse("3"), /is not one of allow, deny/);
});

test("every value of 64 bits is written so that it is read again", () => {
  for (let round = 0; round < 5000; round += 1) {
    const bits = BigInt(Math.floor(Math.random() * 64));
    const value = (BigInt(Math.floor(Math.random() * 2 ** 52)) * 4099n) & ((1n << bits) - 1n);
    for (const notation of [integer, bitrate, size, duration, percent]) {
      assert.is(notation.parse(String(notation.render(value))), value, `${value} as ${notation.render(value)}`);
    }
  }
});

test.run();
