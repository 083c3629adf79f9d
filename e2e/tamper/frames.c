/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sends UDP datagrams as whole frames through a packet socket, past the queueing layer and with it past the egress hook
 * (PACKET_QDISC_BYPASS): `frames INTERFACE DESTINATION_MAC SOURCE DESTINATION PORT COUNT [queue]`. With `queue` they take
 * the ordinary way.
 */
#include <arpa/inet.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <netinet/ether.h>
#include <netinet/ip.h>
#include <netinet/udp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

struct frame {
	struct ether_header ethernet;
	struct iphdr ip;
	struct udphdr udp;
} __attribute__((packed));

static unsigned short checksum(const void *bytes, int length)
{
	unsigned int sum = 0;
	unsigned short word;

	for (int at = 0; at < length; at += 2) {
		memcpy(&word, (const char *)bytes + at, 2);
		sum += word;
	}
	sum = (sum & 0xffff) + (sum >> 16);
	return ~(sum + (sum >> 16));
}

int main(int argc, char **argv)
{
	struct sockaddr_ll to = { .sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_IP), .sll_halen = ETH_ALEN };
	struct frame frame = {
		.ethernet.ether_type = htons(ETH_P_IP),
		.ip = { .version = 4, .ihl = 5, .ttl = 64, .protocol = IPPROTO_UDP },
		.udp.len = htons(sizeof(struct udphdr)),
	};
	struct ifreq device = {};
	int out = socket(AF_PACKET, SOCK_RAW, 0), bypass = argc == 7;

	if (out < 0 || argc < 7 || !(to.sll_ifindex = if_nametoindex(argv[1])) || !ether_aton(argv[2]))
		return 2;
	/* A bridge takes no frame without a sender. */
	strncpy(device.ifr_name, argv[1], IFNAMSIZ - 1);
	if (ioctl(out, SIOCGIFHWADDR, &device))
		return 1;
	memcpy(frame.ethernet.ether_shost, device.ifr_hwaddr.sa_data, ETH_ALEN);
	memcpy(frame.ethernet.ether_dhost, ether_aton(argv[2]), ETH_ALEN);
	if (inet_pton(AF_INET, argv[3], &frame.ip.saddr) != 1 || inet_pton(AF_INET, argv[4], &frame.ip.daddr) != 1)
		return 2;
	frame.ip.tot_len = htons(sizeof(frame) - sizeof(frame.ethernet));
	frame.ip.check = checksum(&frame.ip, sizeof(frame.ip));
	frame.udp.source = frame.udp.dest = htons(atoi(argv[5]));
	if (bypass && setsockopt(out, SOL_PACKET, PACKET_QDISC_BYPASS, &bypass, sizeof(bypass)))
		return 1;
	/* What the hook drops is reported as sent, or as ENOBUFS. */
	for (int left = atoi(argv[6]); left > 0; left--)
		sendto(out, &frame, sizeof(frame), 0, (struct sockaddr *)&to, sizeof(to));
	return 0;
}
