// SPDX-License-Identifier: Apache-2.0
/*
 * Prints the ids of all BPF programs, maps and links of this machine, one `kind id` a line: what a test run left
 * behind is seen by counting before and after. Plain system calls, so that it needs neither bpftool nor our addon.
 *
 * It opens nothing, not even to learn a name: a PROG_ARRAY that is opened by its id while the kernel releases it is
 * never freed (its clearing takes a reference, which is lost where the same work is still queued; seen on 6.18).
 */
#include <errno.h>
#include <linux/bpf.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static const struct {
	const char *kind;
	int command;
} kinds[] = {
	{ "program", BPF_PROG_GET_NEXT_ID },
	{ "map", BPF_MAP_GET_NEXT_ID },
	{ "link", BPF_LINK_GET_NEXT_ID },
};

int main(void)
{
	for (size_t i = 0; i < sizeof(kinds) / sizeof(*kinds); i++) {
		union bpf_attr attr;

		memset(&attr, 0, sizeof(attr));
		while (!syscall(SYS_bpf, kinds[i].command, &attr, sizeof(attr))) {
			printf("%s %u\n", kinds[i].kind, attr.next_id);
			attr.start_id = attr.next_id;
		}
		if (errno != ENOENT) {
			fprintf(stderr, "bpf-ids: next %s: %s\n", kinds[i].kind, strerror(errno));
			return 1;
		}
	}
	return 0;
}
