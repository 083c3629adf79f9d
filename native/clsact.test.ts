// SPDX-License-Identifier: Apache-2.0
/** Filters on the clsact qdisc, on this machine's kernel: where they go, how they are replaced, what stays alone. */
import { spawnSync } from "node:child_process";
import { join } from "node:path";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { type Namespace, run, scratch } from "../e2e/lib/scratch.ts";
import { type HookPlace, KernelError } from "../plugin/kernel/port.ts";
import { Chain, fixture, kernel, u32, verdict } from "./chain.ts";

type World = ReturnType<typeof scratch>;

/** Two namespaces with a pair between them; the second one's `eth0` is what filters hang on. */
function pair(world: World): { outside: Namespace; inside: Namespace } {
  const [outside, inside] = [world.namespace(), world.namespace()];
  world.veth(
    { namespace: outside, ifname: "outside", addresses: ["10.96.0.1/24"] },
    { namespace: inside, ifname: "eth0", addresses: ["10.96.0.2/24"] },
  );
  return { outside, inside };
}
function placeOf(inside: Namespace, direction: "ingress" | "egress"): HookPlace {
  return { netns: inside.path, ifindex: kernel.findInterface(inside.path, "eth0").ifindex, direction };
}
const chain = (object: Buffer, wanted: number): Chain =>
  new Chain([{ object, entry: "give_verdict", parameters: { verdict: u32(wanted) } }]);
const head = ({ stages }: Chain): number => stages[0]?.program ?? -1;
const reaches = ({ outside }: { outside: Namespace }): boolean =>
  spawnSync("ip", ["netns", "exec", outside.name, "ping", "-c", "1", "-W", "1", "10.96.0.2"]).status === 0;
const filters = (inside: Namespace, direction: string): string[] =>
  inside
    .exec("tc", "filter", "show", "dev", "eth0", direction)
    .split("\n")
    .flatMap((line) => /pref (\d+) bpf .*handle (0x\w+) (\S+?):?\[?/.exec(line)?.slice(1, 3).join(" ") ?? []);
const qdisc = (inside: Namespace): boolean => inside.exec("tc", "qdisc", "show", "dev", "eth0").includes("clsact");
function codeOf(act: () => unknown): string {
  try {
    act();
  } catch (error) {
    if (error instanceof KernelError) return error.code;
    throw error;
  }
  throw new Error("nothing failed");
}

test("a filter drops, is replaced in place, and goes with the qdisc it needed", () => {
  using world = scratch();
  const spaces = pair(world);
  const object = fixture(world, "verdict");
  using drops = chain(object, verdict.shot);
  using passes = chain(object, verdict.ok);
  const place = placeOf(spaces.inside, "ingress");
  assert.ok(reaches(spaces));

  const { madeQdisc, ...filter } = kernel.attachFilter({ ...place, program: head(drops) });
  assert.ok(madeQdisc);
  assert.equal(filters(spaces.inside, "ingress"), ["512 0x1"]);
  assert.not.ok(reaches(spaces));
  assert.equal(kernel.listFilters(place), [filter]);

  kernel.replaceFilter(place, filter, head(passes));
  assert.equal(filters(spaces.inside, "ingress"), ["512 0x1"], "in the same place, and the only one");
  assert.ok(reaches(spaces));
  assert.is(
    codeOf(() => kernel.detachFilter(place, filter)),
    "ENOENT",
    "it runs another program by now",
  );

  const current = { ...filter, programId: kernel.programInfo(head(passes)).id };
  assert.equal(kernel.listFilters(place), [current]);
  assert.not.ok(kernel.removeQdisc(place), "a filter is left");
  kernel.detachFilter(place, current);
  assert.equal(kernel.listFilters(place), []);
  assert.is(
    codeOf(() => kernel.replaceFilter(place, current, head(drops))),
    "ENOENT",
  );
  assert.ok(kernel.removeQdisc(place));
  assert.not.ok(qdisc(spaces.inside));
  assert.ok(kernel.removeQdisc(place), "there is none");
  assert.ok(reaches(spaces));
});

for (const { what, theirs, ours } of [
  { what: "behind", theirs: [900, 40], ours: 39 },
  { what: "around", theirs: [1, 2, 4], ours: 3 },
  { what: "far behind", theirs: [49152], ours: 512 },
])
  test(`other people's filters at ${theirs.join(", ")} stay as they are, ${what} ours`, () => {
    using world = scratch();
    const { inside } = pair(world);
    using passes = chain(fixture(world, "verdict"), verdict.unspec);
    inside.exec("tc", "qdisc", "add", "dev", "eth0", "clsact");
    for (const priority of theirs)
      inside.exec(
        ...["tc", "filter", "add", "dev", "eth0", "egress", "prio", String(priority), "protocol", "all"],
        ...["handle", "7", "bpf", "da", "bytecode", "1,6 0 0 4294967295"],
      );
    const before = filters(inside, "egress");
    assert.is(before.length, theirs.length);
    const place = placeOf(inside, "egress");
    const { madeQdisc, ...filter } = kernel.attachFilter({ ...place, program: head(passes) });
    assert.not.ok(madeQdisc);
    assert.is(filter.priority, ours);
    assert.equal(filters(inside, "egress").sort(), [...before, `${ours} 0x1`].sort());
    const listed = kernel.listFilters(place);
    assert.equal(
      listed.map(({ priority }) => priority),
      [...theirs, ours].sort((a, b) => a - b),
    );
    assert.is(listed.find(({ priority }) => priority === ours)?.programId, filter.programId);
    kernel.detachFilter(place, filter);
    assert.equal(filters(inside, "egress"), before);
    assert.not.ok(kernel.removeQdisc(place));
    assert.ok(qdisc(inside));
  });

test("a filter that somebody put in the place of ours is not taken for ours", () => {
  using world = scratch();
  const { inside } = pair(world);
  using passes = chain(fixture(world, "verdict"), verdict.unspec);
  const place = placeOf(inside, "egress");
  const { madeQdisc: _, ...filter } = kernel.attachFilter({ ...place, program: head(passes) });
  inside.exec("tc", "filter", "delete", "dev", "eth0", "egress", "prio", "512");
  inside.exec(
    ...["tc", "filter", "add", "dev", "eth0", "egress", "prio", "512", "protocol", "all", "handle", "1"],
    ...["bpf", "da", "bytecode", "1,6 0 0 4294967295"],
  );
  assert.is(
    codeOf(() => kernel.replaceFilter(place, filter, head(passes))),
    "ENOENT",
  );
  assert.is(
    codeOf(() => kernel.detachFilter(place, filter)),
    "ENOENT",
  );
  assert.equal(filters(inside, "egress"), ["512 0x1"]);
});

test("what cannot be: no device, no namespace, an ingress qdisc in clsact's place", () => {
  using world = scratch();
  const { inside } = pair(world);
  using passes = chain(fixture(world, "verdict"), verdict.unspec);
  const place = placeOf(inside, "egress");
  const program = head(passes);
  assert.is(
    codeOf(() => kernel.attachFilter({ ...place, ifindex: 4711, program })),
    "ENODEV",
  );
  assert.is(
    codeOf(() => kernel.attachFilter({ ...place, netns: `${world.dir}/none`, program })),
    "ENOENT",
  );
  inside.exec("tc", "qdisc", "add", "dev", "eth0", "ingress");
  assert.is(
    codeOf(() => kernel.attachFilter({ ...place, program })),
    "EOPNOTSUPP",
  );
  const { madeQdisc, ...filter } = kernel.attachFilter({ ...place, direction: "ingress", program });
  assert.not.ok(madeQdisc, "an ingress qdisc takes filters of that direction");
  kernel.detachFilter({ ...place, direction: "ingress" }, filter);
});

test("a filter that is too large for the kernel to list does not make the others seem gone", () => {
  using world = scratch();
  const spaces = pair(world);
  using drops = chain(fixture(world, "verdict"), verdict.shot);
  const place = placeOf(spaces.inside, "ingress");
  const { madeQdisc: _, ...filter } = kernel.attachFilter({ ...place, program: head(drops) });
  const large = join(world.dir, "large-filter");
  run("gcc", "-Wall", "-Werror", join(import.meta.dirname, "fixtures/large-filter.c"), "-o", large);
  spaces.inside.exec(large, String(place.ifindex), "1");
  assert.is(
    codeOf(() => kernel.listFilters(place)),
    "EMSGSIZE",
  );
  assert.equal(kernel.findFilter(place, filter), filter);
  assert.is(kernel.findFilter(place, { priority: 1, handle: 1 }), undefined, "it is no eBPF program");
  assert.is(kernel.findFilter(place, { ...filter, priority: 700 }), undefined);
  assert.is(
    codeOf(() => kernel.findFilter({ ...place, ifindex: 4711 }, filter)),
    "ENODEV",
  );
  kernel.detachFilter(place, filter);
  assert.is(kernel.findFilter(place, filter), undefined);
  assert.not(kernel.removeQdisc(place), "somebody needs it");
});

test.run();
