/*
 * floor: the requests that must be made to turn tx-checksum-ip-generic off on every VXLAN device of the network namespace
 * and to know that it is off, with nothing between.
 *
 * One link dump that the kernel filters by kind, one look-up of the ethtool family, the features of the devices, FEATURES_SET
 * requests in batches, and the features again. It decides nothing, keeps no record and prints one line. The difference to
 * `vxcsum apply` is the price of its decisions and of its record. Reading is as fast as the kernel allows: requests in batches
 * for few devices, one dump for many.
 *
 * Usage: floor off    reads, sets, reads back
 *        floor set    sets it off without reading
 *        floor on     sets it on without reading
 */
#include <errno.h>
#include <limits.h>
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
#define BATCH 64
#define DUMP_ABOVE 256
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

/*
 * Trusts the filter of the kernel. A real program must not, because kernels before 4.6 do not have it. Without
 * IFLA_EXT_MASK: with any mask the kernel first computes the size of every link.
 */
static int dump_vxlans(void)
{
	int fd = open_netlink(NETLINK_ROUTE), count = 0;
	struct nlmsghdr *message = open_message(RTM_GETLINK, NLM_F_DUMP, 1);

	memset(end, 0, sizeof(struct ifinfomsg));
	end += NLMSG_ALIGN(sizeof(struct ifinfomsg));
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

static void put_set(int family, uint32_t ifindex, int on, int flags)
{
	uint32_t header_flags = ETHTOOL_FLAG_OMIT_REPLY;
	struct nlmsghdr *message = open_message(family, flags, ifindex);

	put_genl(ETHTOOL_MSG_FEATURES_SET);
	struct nlattr *header = open_nest(ETHTOOL_A_FEATURES_HEADER);
	put_attr(ETHTOOL_A_HEADER_DEV_INDEX, &ifindex, sizeof ifindex);
	put_attr(ETHTOOL_A_HEADER_FLAGS, &header_flags, sizeof header_flags);
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

/* With ifindex 0 and NLM_F_DUMP: of every device. */
static void put_get(int family, uint32_t ifindex, int flags)
{
	uint32_t header_flags = ETHTOOL_FLAG_COMPACT_BITSETS;
	struct nlmsghdr *message = open_message(family, flags, ifindex);

	put_genl(ETHTOOL_MSG_FEATURES_GET);
	struct nlattr *header = open_nest(ETHTOOL_A_FEATURES_HEADER);
	if (ifindex)
		put_attr(ETHTOOL_A_HEADER_DEV_INDEX, &ifindex, sizeof ifindex);
	put_attr(ETHTOOL_A_HEADER_FLAGS, &header_flags, sizeof header_flags);
	close_nest(header);
	close_message(message);
}

/* Reads this many messages, or until the end of a dump or the answer to the last request. Returns the refusals. */
static int read_answers(int fd, int wanted, uint32_t last)
{
	int failed = 0;

	while (wanted > 0) {
		int len = receive(fd);

		for (struct nlmsghdr *got = (void *)answer; NLMSG_OK(got, len); got = NLMSG_NEXT(got, len)) {
			if (got->nlmsg_type == NLMSG_DONE)
				return failed;
			if (got->nlmsg_type == NLMSG_ERROR)
				failed += ((struct nlmsgerr *)NLMSG_DATA(got))->error != 0;
			if (got->nlmsg_seq == last)
				return failed;
			wanted--;
		}
	}
	return failed;
}

static int read_features(int fd, int family, int count)
{
	int failed = 0;

	if (count > DUMP_ABOVE) {
		put_get(family, 0, NLM_F_DUMP);
		send_request(fd);
		return read_answers(fd, INT_MAX, UINT32_MAX);
	}
	for (int done = 0; done < count;) {
		int batch = count - done < BATCH ? count - done : BATCH;

		for (int i = 0; i < batch; i++)
			put_get(family, ifindexes[done + i], 0);
		send_request(fd);
		failed += read_answers(fd, batch, UINT32_MAX);
		done += batch;
	}
	return failed;
}

int main(int argc, char **argv)
{
	if (argc != 2 || (strcmp(argv[1], "on") && strcmp(argv[1], "off") && strcmp(argv[1], "set"))) {
		fprintf(stderr, "usage: floor off|set|on\n");
		return 64;
	}
	int on = !strcmp(argv[1], "on"), reads = !strcmp(argv[1], "off");

	end = request;
	int count = dump_vxlans();
	int fd = open_netlink(NETLINK_GENERIC);
	/* Without these the answers of a batch could overflow the socket, and every answer would carry its request. */
	int room = 4 << 20, yes = 1;
	setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof room);
	setsockopt(fd, SOL_NETLINK, NETLINK_CAP_ACK, &yes, sizeof yes);
	int family = ethtool_family(fd), failed = 0;

	if (reads)
		failed += read_features(fd, family, count);
	for (int done = 0; done < count;) {
		int batch = count - done < BATCH ? count - done : BATCH;

		/* Only the last request of a send is acknowledged: refusals come anyway. */
		for (int i = 0; i < batch; i++)
			put_set(family, ifindexes[done + i], on, i + 1 < batch ? 0 : NLM_F_ACK);
		send_request(fd);
		failed += read_answers(fd, INT_MAX, ifindexes[done + batch - 1]);
		done += batch;
	}
	if (reads)
		failed += read_features(fd, family, count);
	printf("%d devices %s, %d failed\n", count, argv[1], failed);
	return failed != 0;
}
