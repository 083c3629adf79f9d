// SPDX-License-Identifier: Apache-2.0
/** prevResult: read with care, passed on as it came. */
import { test } from "uvu";
import * as assert from "uvu/assert";
import { passOn, readPrevResult } from "./result.ts";
import type { CniVersion } from "./version.ts";

const configuration = (prevResult: string): string => `{"name":"pods","prevResult":${prevResult},"type":"remora"}`;

// biome-ignore format: a table reads by lines
const untouched: [name: string, version: CniVersion, result: string][] = [
  ["cilium's", "0.3.1", '{"cniVersion":"0.3.1","interfaces":[{"name":"lxc1","mac":"02:00:00:00:00:01"},{"name":"eth0","mac":"02:00:00:00:00:02","sandbox":"/run/netns/a"}],"ips":[{"version":"4","interface":1,"address":"10.0.0.2/32","gateway":"10.0.0.1"}],"routes":[{"dst":"10.0.0.1/32"}],"dns":{}}'],
  ["fields of 1.1", "1.1.0", '{"cniVersion":"1.1.0","interfaces":[{"name":"eth0","mtu":1500,"socketPath":"/s","pciID":"0000:00:1f.6"}],"routes":[{"dst":"0.0.0.0/0","mtu":1400,"advmss":1360,"priority":1,"table":5,"scope":0}]}'],
  ["numbers beyond 2^53", "1.0.0", '{"cniVersion":"1.0.0","vendor":{"id":9007199254740993,"big":18446744073709551616,"small":-9223372036854775808}}'],
  ["the spelling of numbers", "1.0.0", '{"cniVersion":"1.0.0","x":[1.0,1e3,-0,1E400,0.1000]}'],
  ["unknown keys, odd ones too", "1.0.0", '{"cniVersion":"1.0.0","__proto__":{"a":1},"constructor":"b","":null,"a.b":[true,[]]}'],
  ["text of every kind", "1.0.0", '{"cniVersion":"1.0.0","t":"é\\u0000\\n\\"😀"}'],
  ["no interfaces at all", "1.0.0", '{"cniVersion":"1.0.0"}'],
  ["null lists", "0.4.0", '{"cniVersion":"0.4.0","interfaces":null,"ips":null,"routes":null,"dns":null}'],
];
for (const [name, version, result] of untouched)
  test(`passes on as it came: ${name}`, () => {
    readPrevResult(JSON.parse(result));
    assert.is(passOn(configuration(result), version), result);
  });

// biome-ignore format: a table reads by lines
const converted: [name: string, version: CniVersion, from: string, to: string][] = [
  ["no version: the configuration's", "0.4.0", '{"ips":[{"address":"10.0.0.2/8"}]}', '{"ips":[{"address":"10.0.0.2/8"}],"cniVersion":"0.4.0"}'],
  ["0.3.1 to 0.4.0", "0.4.0", '{"cniVersion":"0.3.1","ips":[{"version":"4","address":"10.0.0.2/8"}],"n":9007199254740993}', '{"cniVersion":"0.4.0","ips":[{"version":"4","address":"10.0.0.2/8"}],"n":9007199254740993}'],
  ["0.4.0 to 1.0.0 drops the family", "1.0.0", '{"cniVersion":"0.4.0","ips":[{"version":"4","address":"10.0.0.2/8","n":9007199254740993}]}', '{"cniVersion":"1.0.0","ips":[{"address":"10.0.0.2/8","n":9007199254740993}]}'],
  ["1.1.0 to 0.3.1 gives the family", "0.3.1", '{"cniVersion":"1.1.0","ips":[{"address":"10.0.0.2/8"},{"address":"fd00::2/64"}],"x":1.0}', '{"cniVersion":"0.3.1","ips":[{"version":"4","address":"10.0.0.2/8"},{"version":"6","address":"fd00::2/64"}],"x":1.0}'],
  ["1.0.0 to 1.1.0", "1.1.0", '{"cniVersion":"1.0.0","ips":[{"address":"fd00::2/64"}]}', '{"cniVersion":"1.1.0","ips":[{"address":"fd00::2/64"}]}'],
  ["no addresses", "0.3.1", '{"cniVersion":"1.0.0","ips":null}', '{"cniVersion":"0.3.1","ips":null}'],
];
for (const [name, version, from, to] of converted)
  test(`converts: ${name}`, () => {
    readPrevResult(JSON.parse(from));
    assert.is(passOn(configuration(from), version), to);
  });

test("reads interfaces and addresses, whatever is missing", () => {
  assert.equal(
    readPrevResult({
      interfaces: [{ name: "veth1" }, { name: "eth0", mac: "02:00:00:00:00:01", sandbox: "/run/netns/a" }],
      ips: [{ address: "fd00::2/64", gateway: "fd00::1" }],
    }),
    {
      interfaces: [
        { name: "veth1", mac: "", sandbox: "" },
        { name: "eth0", mac: "02:00:00:00:00:01", sandbox: "/run/netns/a" },
      ],
      ips: [{ address: "fd00::2/64", gateway: "fd00::1" }],
    },
  );
  assert.equal(readPrevResult({}), { interfaces: [], ips: [] });
});

test.run();
