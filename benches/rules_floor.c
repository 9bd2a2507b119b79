/*
 * rules_floor: the least reading of NAT rules, without a look at them: a bound for the first look of `vxcsum status`.
 *
 * Usage: rules_floor legacy                       the table nat of iptables-legacy, which getsockopt returns as a whole
 *        rules_floor nf_tables TABLE chain CHAIN  the chains of nf_tables, and the rules of one
 *        rules_floor nf_tables TABLE set SET      the same, and the elements of one set or map; all in tables of IPv4
 */
#include <errno.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter_ipv4/ip_tables.h>
#include <linux/netlink.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static char answer[1 << 16];

static void die(const char *what)
{
	fprintf(stderr, "rules_floor: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void legacy(void)
{
	struct ipt_getinfo info = { .name = "nat" };
	socklen_t len = sizeof info;
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	if (fd < 0 || getsockopt(fd, IPPROTO_IP, IPT_SO_GET_INFO, &info, &len) < 0)
		die("size of the table nat");
	len = sizeof(struct ipt_get_entries) + info.size;
	struct ipt_get_entries *entries = calloc(1, len);
	if (!entries)
		die("memory");
	strcpy(entries->name, "nat");
	entries->size = info.size;
	if (getsockopt(fd, IPPROTO_IP, IPT_SO_GET_ENTRIES, entries, &len) < 0)
		die("the table nat");
}

static size_t put(char *to, int type, const char *name)
{
	struct nlattr *attr = (struct nlattr *)to;

	attr->nla_type = type;
	attr->nla_len = NLA_HDRLEN + strlen(name) + 1;
	strcpy(to + NLA_HDRLEN, name);
	return NLA_ALIGN(attr->nla_len);
}

/* A dump of one kind. Limited to a table and an object in it unless these are NULL. */
static void dump(int fd, int type, const char *table, const char *of)
{
	static char request[1024];
	struct nlmsghdr *head = (struct nlmsghdr *)request;
	struct nfgenmsg *body = NLMSG_DATA(head);

	memset(request, 0, sizeof request);
	body->nfgen_family = table ? NFPROTO_IPV4 : NFPROTO_UNSPEC;
	head->nlmsg_type = NFNL_SUBSYS_NFTABLES << 8 | type;
	head->nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
	head->nlmsg_len = NLMSG_LENGTH(sizeof *body);
	if (table) {
		/* Table and chain, and table and set, have the same numbers. */
		head->nlmsg_len += put(request + head->nlmsg_len, NFTA_RULE_TABLE, table);
		head->nlmsg_len += put(request + head->nlmsg_len, NFTA_RULE_CHAIN, of);
	}
	if (send(fd, request, head->nlmsg_len, 0) < 0)
		die("ask");
	for (;;) {
		ssize_t len = recv(fd, answer, sizeof answer, 0);
		if (len <= 0)
			die("receive");
		for (struct nlmsghdr *m = (struct nlmsghdr *)answer; NLMSG_OK(m, len); m = NLMSG_NEXT(m, len)) {
			if (m->nlmsg_type == NLMSG_DONE)
				return;
			if (m->nlmsg_type == NLMSG_ERROR) {
				errno = -((struct nlmsgerr *)NLMSG_DATA(m))->error;
				die("dump");
			}
		}
	}
}

int main(int argc, char **argv)
{
	if (argc == 2 && !strcmp(argv[1], "legacy")) {
		legacy();
		return 0;
	}
	if (argc != 5 || strcmp(argv[1], "nf_tables") || (strcmp(argv[3], "chain") && strcmp(argv[3], "set"))) {
		fprintf(stderr, "usage: rules_floor legacy | nf_tables TABLE chain|set NAME\n");
		return 64;
	}
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_NETFILTER);
	if (fd < 0)
		die("socket");
	dump(fd, NFT_MSG_GETCHAIN, NULL, NULL);
	dump(fd, strcmp(argv[3], "set") ? NFT_MSG_GETRULE : NFT_MSG_GETSETELEM, argv[2], argv[4]);
	return 0;
}
