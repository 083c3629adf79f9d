/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sends UDP packets as the first thing that a container does, and ends: `send ADDRESS PORT COUNT`. Static and without
 * a shell before it, so that nothing comes between the start of the pod's first process and its first packet.
 */
#include <arpa/inet.h>
#include <stdlib.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	if (argc != 4)
		return 2;
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(atoi(argv[2])) };
	int out = socket(AF_INET, SOCK_DGRAM, 0);
	if (out < 0 || inet_pton(AF_INET, argv[1], &to.sin_addr) != 1)
		return 2;
	/* A packet that the chain drops is reported as sent (or as ENOBUFS): neither stops the next one. */
	for (int left = atoi(argv[3]); left > 0; left--)
		sendto(out, "remora", 6, 0, (struct sockaddr *)&to, sizeof(to));
	return 0;
}
