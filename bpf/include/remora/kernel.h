/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The kernel's types: from its user-space headers, or from a vmlinux.h that the program included before. The latter
 * has all types, but no macros, so the few that these headers use are spelled here.
 */
#ifndef REMORA_KERNEL_H
#define REMORA_KERNEL_H

#ifndef __VMLINUX_H__

#include <stdbool.h>
#include <stddef.h>

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>

#else

#ifndef NULL
#define NULL ((void *)0)
#endif
#ifndef offsetof
#define offsetof(type, member) __builtin_offsetof(type, member)
#endif

#define ETH_HLEN 14
#define ETH_P_IP 0x0800
#define ETH_P_ARP 0x0806
#define ETH_P_8021Q 0x8100
#define ETH_P_IPV6 0x86dd
#define ETH_P_8021AD 0x88a8

/* Of linux/in6.h; those of linux/in.h are an enum. */
#define IPPROTO_HOPOPTS 0
#define IPPROTO_ROUTING 43
#define IPPROTO_FRAGMENT 44
#define IPPROTO_ICMPV6 58
#define IPPROTO_DSTOPTS 60

#define TC_ACT_UNSPEC (-1)
#define TC_ACT_SHOT 2

#endif

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#endif
