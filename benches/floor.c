/*
 * floor: the least netlink work that sets tx-checksum-ip-generic on every VXLAN device of the network namespace.
 *
 * One link dump that the kernel filters by kind, one look-up of the ethtool family, and FEATURES_SET requests in batches whose
 * acknowledgements are read in bulk. It reads no feature, decides nothing, verifies nothing and prints one line. The
 * difference to `vxcsum apply` is the price of its decisions.
 *
 * Usage: floor on|off
 */
#include <errno.h>
#include <linux/ethtool_netlink.h>
#include <linux/genetlink.h>
#include <linux/if_link.h>
#include <linux/rtnetlink.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define FEATURE "tx-checksum-ip-generic"
#define BATCH 128
#define MAX_DEVICES 65536

/* Space for one batch of requests, and for the answers of one recv. */
static char request[BATCH * 128];
static char answer[1 << 18];
static uint32_t ifindexes[MAX_DEVICES];

static void die(const char *what)
{
	fprintf(stderr, "floor: %s: %s\n", what, strerror(errno));
	exit(1);
}

/* A message is written at `end`, and every put moves `end`. */
static char *end;

static void put_attr(int type, const void *value, size_t len)
{
	struct nlattr *attr = (struct nlattr *)end;

	attr->nla_type = type;
	attr->nla_len = NLA_HDRLEN + len;
	if (len)
		memcpy(end + NLA_HDRLEN, value, len);
	end += NLA_ALIGN(attr->nla_len);
}

static struct nlattr *open_nest(int type)
{
	struct nlattr *attr = (struct nlattr *)end;

	attr->nla_type = type | NLA_F_NESTED;
	end += NLA_HDRLEN;
	return attr;
}

static void close_nest(struct nlattr *attr)
{
	attr->nla_len = end - (char *)attr;
}

static struct nlmsghdr *open_message(int type, int flags, uint32_t seq)
{
	struct nlmsghdr *message = (struct nlmsghdr *)end;

	*message = (struct nlmsghdr){ .nlmsg_type = type, .nlmsg_flags = NLM_F_REQUEST | flags, .nlmsg_seq = seq };
	end += NLMSG_HDRLEN;
	return message;
}

static void close_message(struct nlmsghdr *message)
{
	message->nlmsg_len = end - (char *)message;
}

static void put_genl(int command)
{
	struct genlmsghdr genl = { .cmd = command, .version = 1 };

	memcpy(end, &genl, sizeof genl);
	end += GENL_HDRLEN;
}

static int open_netlink(int protocol)
{
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, protocol);

	if (fd < 0)
		die("open a netlink socket");
	return fd;
}

static void send_request(int fd)
{
	if (send(fd, request, end - request, 0) < 0)
		die("send");
	end = request;
}

static int receive(int fd)
{
	int len = recv(fd, answer, sizeof answer, 0);

	if (len < 0)
		die("receive");
	return len;
}

/* Trusts the filter of the kernel. A real program must not, because kernels before 4.6 do not have it. */
static int dump_vxlans(void)
{
	int fd = open_netlink(NETLINK_ROUTE), count = 0;
	uint32_t mask = RTEXT_FILTER_SKIP_STATS;
	struct nlmsghdr *message = open_message(RTM_GETLINK, NLM_F_DUMP, 1);

	memset(end, 0, sizeof(struct ifinfomsg));
	end += NLMSG_ALIGN(sizeof(struct ifinfomsg));
	put_attr(IFLA_EXT_MASK, &mask, sizeof mask);
	struct nlattr *info = open_nest(IFLA_LINKINFO);
	put_attr(IFLA_INFO_KIND, "vxlan", sizeof "vxlan");
	close_nest(info);
	close_message(message);
	send_request(fd);

	for (;;) {
		int len = receive(fd);

		for (struct nlmsghdr *got = (void *)answer; NLMSG_OK(got, len); got = NLMSG_NEXT(got, len)) {
			if (got->nlmsg_type == NLMSG_DONE) {
				close(fd);
				return count;
			}
			if (got->nlmsg_type == RTM_NEWLINK && count < MAX_DEVICES)
				ifindexes[count++] = ((struct ifinfomsg *)NLMSG_DATA(got))->ifi_index;
		}
	}
}

static int ethtool_family(int fd)
{
	struct nlmsghdr *message = open_message(GENL_ID_CTRL, 0, 2);

	put_genl(CTRL_CMD_GETFAMILY);
	put_attr(CTRL_ATTR_FAMILY_NAME, "ethtool", sizeof "ethtool");
	close_message(message);
	send_request(fd);

	char *stop = answer + receive(fd);
	for (char *at = answer + NLMSG_HDRLEN + GENL_HDRLEN; at < stop;) {
		struct nlattr *attr = (struct nlattr *)at;

		if ((attr->nla_type & NLA_TYPE_MASK) == CTRL_ATTR_FAMILY_ID)
			return *(uint16_t *)(at + NLA_HDRLEN);
		at += NLA_ALIGN(attr->nla_len);
	}
	errno = ENOENT;
	die("find the ethtool family");
	return -1;
}

static void put_set(int family, uint32_t ifindex, int on)
{
	uint32_t flags = ETHTOOL_FLAG_OMIT_REPLY;
	struct nlmsghdr *message = open_message(family, NLM_F_ACK, ifindex);

	put_genl(ETHTOOL_MSG_FEATURES_SET);
	struct nlattr *header = open_nest(ETHTOOL_A_FEATURES_HEADER);
	put_attr(ETHTOOL_A_HEADER_DEV_INDEX, &ifindex, sizeof ifindex);
	put_attr(ETHTOOL_A_HEADER_FLAGS, &flags, sizeof flags);
	close_nest(header);
	struct nlattr *wanted = open_nest(ETHTOOL_A_FEATURES_WANTED);
	struct nlattr *bits = open_nest(ETHTOOL_A_BITSET_BITS);
	struct nlattr *bit = open_nest(ETHTOOL_A_BITSET_BITS_BIT);
	put_attr(ETHTOOL_A_BITSET_BIT_NAME, FEATURE, sizeof FEATURE);
	if (on)
		put_attr(ETHTOOL_A_BITSET_BIT_VALUE, NULL, 0);
	close_nest(bit);
	close_nest(bits);
	close_nest(wanted);
	close_message(message);
}

/* Reads as many acknowledgements as there were requests; returns how many of them were errors. */
static int read_acks(int fd, int wanted)
{
	int failed = 0;

	while (wanted > 0) {
		int len = receive(fd);

		for (struct nlmsghdr *got = (void *)answer; NLMSG_OK(got, len); got = NLMSG_NEXT(got, len)) {
			if (got->nlmsg_type != NLMSG_ERROR)
				continue;
			failed += ((struct nlmsgerr *)NLMSG_DATA(got))->error != 0;
			wanted--;
		}
	}
	return failed;
}

int main(int argc, char **argv)
{
	if (argc != 2 || (strcmp(argv[1], "on") && strcmp(argv[1], "off"))) {
		fprintf(stderr, "usage: floor on|off\n");
		return 64;
	}
	int on = !strcmp(argv[1], "on");

	end = request;
	int count = dump_vxlans();
	int fd = open_netlink(NETLINK_GENERIC);
	/* Without these the answers of a batch could overflow the socket, and every answer would carry its request. */
	int room = 4 << 20, yes = 1;
	setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof room);
	setsockopt(fd, SOL_NETLINK, NETLINK_CAP_ACK, &yes, sizeof yes);
	int family = ethtool_family(fd), failed = 0;

	for (int done = 0; done < count;) {
		int batch = count - done < BATCH ? count - done : BATCH;

		for (int i = 0; i < batch; i++)
			put_set(family, ifindexes[done + i], on);
		send_request(fd);
		failed += read_acks(fd, batch);
		done += batch;
	}
	printf("%d devices %s, %d failed\n", count, argv[1], failed);
	return failed != 0;
}
