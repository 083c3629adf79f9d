/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a hostile process tries with bpf(2) against the TCX program of an interface. It is told more than it could know:
 * the ids of what it attacks.
 *
 *     hostile ATTEMPT INTERFACE ingress|egress LINK PROGRAM ARRAY
 *
 * Prints `done`, or the step that was refused and the errno (`BPF_PROG_LOAD EPERM`), and ends with 0 in both cases.
 *
 *   before     puts a program of its own before the others, which ends the list with TCX_PASS
 *   relative   the same, saying "before that link" by its id
 *   replace    puts that program in the place of the one there (BPF_F_REPLACE)
 *   detach     detaches whichever program is first (BPF_PROG_DETACH)
 *   unlink     detaches the link (BPF_LINK_DETACH)
 *   relink     gives the link that program (BPF_LINK_UPDATE)
 *   empty      takes the second program out of the chain's array
 */
#include <errno.h>
#include <linux/bpf.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static union bpf_attr attr;

static void refused(const char *step)
{
	printf("%s %s\n", step, strerrorname_np(errno));
	exit(0);
}

/* `attr` holds the request; it is empty again afterwards. */
static int bpf(enum bpf_cmd command)
{
	int result = syscall(SYS_bpf, command, &attr, sizeof(attr));

	memset(&attr, 0, sizeof(attr));
	return result;
}

static int pass_program(void)
{
	struct bpf_insn insns[] = {
		{ .code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = 0, .imm = TCX_PASS },
		{ .code = BPF_JMP | BPF_EXIT },
	};
	int program;

	attr.prog_type = BPF_PROG_TYPE_SCHED_CLS;
	attr.insns = (unsigned long)insns;
	attr.insn_cnt = 2;
	attr.license = (unsigned long)"GPL";
	program = bpf(BPF_PROG_LOAD);
	if (program < 0)
		refused("BPF_PROG_LOAD");
	return program;
}

/* A descriptor of what has that id. */
static int open_by_id(enum bpf_cmd command, const char *step, const char *id)
{
	int fd;

	attr.prog_id = atoi(id); /* link_id and map_id lie there too */
	fd = bpf(command);
	if (fd < 0)
		refused(step);
	return fd;
}

static void attach(int program, __u32 flags, int ifindex, enum bpf_attach_type hook, int replaced, int relative)
{
	attr.target_ifindex = ifindex;
	attr.attach_type = hook;
	attr.attach_bpf_fd = program;
	attr.attach_flags = flags;
	attr.replace_bpf_fd = replaced;
	attr.relative_id = relative;
	if (bpf(BPF_PROG_ATTACH))
		refused("BPF_PROG_ATTACH");
}

int main(int argc, char **argv)
{
	const char *attempt = argv[1];
	enum bpf_attach_type hook;
	int ifindex;

	if (argc != 7 || !(ifindex = if_nametoindex(argv[2])))
		return 2;
	hook = strcmp(argv[3], "ingress") ? BPF_TCX_EGRESS : BPF_TCX_INGRESS;
	if (!strcmp(attempt, "before")) {
		attach(pass_program(), BPF_F_BEFORE, ifindex, hook, 0, 0);
	} else if (!strcmp(attempt, "relative")) {
		attach(pass_program(), BPF_F_BEFORE | BPF_F_ID | BPF_F_LINK, ifindex, hook, 0, atoi(argv[4]));
	} else if (!strcmp(attempt, "replace")) {
		int theirs = open_by_id(BPF_PROG_GET_FD_BY_ID, "BPF_PROG_GET_FD_BY_ID", argv[5]);

		attach(pass_program(), BPF_F_REPLACE, ifindex, hook, theirs, 0);
	} else if (!strcmp(attempt, "detach")) {
		attr.target_ifindex = ifindex;
		attr.attach_type = hook;
		attr.attach_flags = BPF_F_BEFORE; /* no program named: the first */
		if (bpf(BPF_PROG_DETACH))
			refused("BPF_PROG_DETACH");
	} else if (!strcmp(attempt, "unlink")) {
		int link = open_by_id(BPF_LINK_GET_FD_BY_ID, "BPF_LINK_GET_FD_BY_ID", argv[4]);

		attr.link_detach.link_fd = link;
		if (bpf(BPF_LINK_DETACH))
			refused("BPF_LINK_DETACH");
	} else if (!strcmp(attempt, "relink")) {
		int link = open_by_id(BPF_LINK_GET_FD_BY_ID, "BPF_LINK_GET_FD_BY_ID", argv[4]);

		int program = pass_program();

		attr.link_update.new_prog_fd = program;
		attr.link_update.link_fd = link;
		if (bpf(BPF_LINK_UPDATE))
			refused("BPF_LINK_UPDATE");
	} else if (!strcmp(attempt, "empty")) {
		int map = open_by_id(BPF_MAP_GET_FD_BY_ID, "BPF_MAP_GET_FD_BY_ID", argv[6]);
		__u32 second = 1;

		attr.map_fd = map;
		attr.key = (unsigned long)&second;
		if (bpf(BPF_MAP_DELETE_ELEM))
			refused("BPF_MAP_DELETE_ELEM");
	} else {
		return 2;
	}
	puts("done");
	return 0;
}
