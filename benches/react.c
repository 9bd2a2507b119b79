/*
 * react: how long new VXLAN devices keep tx-checksum-ip-generic on while another program turns it off.
 *
 * Creates devices one after another in this network namespace and waits for a link event of each, and then
 * reads the feature. It never polls, so the other program has the CPUs to itself. The time runs from the acknowledgement of
 * the creation to the read that finds the feature off.
 *
 * With `storm`, another process creates and deletes veths as fast as it can meanwhile.
 *
 * Prints p50, p99, p99.9 and maximum in microseconds, how many were still on after three seconds, and how many pairs of veths
 * the storm made, separated by tabs.
 *
 * Usage: react COUNT [storm]
 */
#include <errno.h>
#include <linux/ethtool.h>
#include <linux/if_link.h>
#include <linux/rtnetlink.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define FEATURE "tx-checksum-ip-generic"
#define MAX_WAIT_MS 3000
#define MAX_WORDS 8

static int requests, events, ethtool;
static unsigned int feature, words;

static void die(const char *what)
{
	fprintf(stderr, "react: %s: %s\n", what, strerror(errno));
	exit(1);
}

static double microseconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1e6 + now.tv_nsec / 1e3;
}

static int open_rtnetlink(unsigned int groups)
{
	struct sockaddr_nl address = { .nl_family = AF_NETLINK, .nl_groups = groups };
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);

	if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
		die("open rtnetlink");
	return fd;
}

struct request {
	struct nlmsghdr header;
	struct ifinfomsg link;
	char attrs[256];
};

static struct rtattr *put(struct request *request, int type, const void *value, size_t len)
{
	struct rtattr *attr = (struct rtattr *)((char *)request + NLMSG_ALIGN(request->header.nlmsg_len));

	attr->rta_type = type;
	attr->rta_len = RTA_LENGTH(len);
	if (len)
		memcpy(RTA_DATA(attr), value, len);
	request->header.nlmsg_len = NLMSG_ALIGN(request->header.nlmsg_len) + RTA_ALIGN(attr->rta_len);
	return attr;
}

static void close_nest(struct request *request, struct rtattr *nest)
{
	nest->rta_len = (char *)request + request->header.nlmsg_len - (char *)nest;
}

static void ask(struct request *request, const char *what)
{
	struct {
		struct nlmsghdr header;
		struct nlmsgerr error;
		char rest[1024];
	} answer;

	if (send(requests, request, request->header.nlmsg_len, 0) < 0 || recv(requests, &answer, sizeof(answer), 0) < 0)
		die(what);
	if (answer.header.nlmsg_type != NLMSG_ERROR || answer.error.error) {
		errno = -answer.error.error;
		die(what);
	}
}

static struct request new_request(int type, int flags)
{
	return (struct request){
		.header = { .nlmsg_len = NLMSG_LENGTH(sizeof(struct ifinfomsg)),
			    .nlmsg_type = type,
			    .nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK | flags },
	};
}

static void create(const char *name, uint32_t vni)
{
	const uint16_t port = __builtin_bswap16(8472);
	struct request request = new_request(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL);
	struct rtattr *info, *data;

	put(&request, IFLA_IFNAME, name, strlen(name) + 1);
	info = put(&request, IFLA_LINKINFO, NULL, 0);
	put(&request, IFLA_INFO_KIND, "vxlan", sizeof("vxlan"));
	data = put(&request, IFLA_INFO_DATA, NULL, 0);
	put(&request, IFLA_VXLAN_ID, &vni, sizeof(vni));
	put(&request, IFLA_VXLAN_PORT, &port, sizeof(port));
	close_nest(&request, data);
	close_nest(&request, info);
	ask(&request, "create a device");
}

static void delete(const char *name)
{
	struct request request = new_request(RTM_DELLINK, 0);

	put(&request, IFLA_IFNAME, name, strlen(name) + 1);
	ask(&request, "delete a device");
}

static void create_veth(const char *name)
{
	struct request request = new_request(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL);
	struct rtattr *info;

	put(&request, IFLA_IFNAME, name, strlen(name) + 1);
	info = put(&request, IFLA_LINKINFO, NULL, 0);
	put(&request, IFLA_INFO_KIND, "veth", sizeof("veth"));
	close_nest(&request, info);
	ask(&request, "create a veth");
}

/* Shared with the storm. */
struct storm {
	volatile unsigned long pairs;
	volatile int stop;
};

/* Leaves no veth behind when it is stopped. */
static pid_t start_storm(struct storm *storm)
{
	pid_t child = fork();

	if (child < 0)
		die("fork");
	if (child > 0)
		return child;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	requests = open_rtnetlink(0);
	for (; !storm->stop; storm->pairs++) {
		create_veth("storm0");
		delete("storm0");
	}
	_exit(0);
}

static void ask_ethtool(const char *name, void *command)
{
	struct ifreq ifreq = { .ifr_data = command };

	snprintf(ifreq.ifr_name, IFNAMSIZ, "%s", name);
	if (ioctl(ethtool, SIOCETHTOOL, &ifreq) < 0)
		die("read the features of a device");
}

/* The number of the feature, which is the same for every device. */
static void find_feature(const char *name)
{
	struct {
		struct ethtool_sset_info header;
		uint32_t count;
	} set = { .header = { .cmd = ETHTOOL_GSSET_INFO, .sset_mask = 1ULL << ETH_SS_FEATURES } };
	struct ethtool_gstrings *strings;

	ask_ethtool(name, &set);
	strings = calloc(1, sizeof(*strings) + set.count * ETH_GSTRING_LEN);
	if (!strings || set.count > MAX_WORDS * 32)
		die("find room for names");
	strings->cmd = ETHTOOL_GSTRINGS;
	strings->string_set = ETH_SS_FEATURES;
	strings->len = set.count;
	ask_ethtool(name, strings);
	for (feature = 0; feature < strings->len; feature++)
		if (!strncmp((char *)strings->data + feature * ETH_GSTRING_LEN, FEATURE, ETH_GSTRING_LEN))
			break;
	if (feature == strings->len) {
		errno = ENOENT;
		die("find " FEATURE);
	}
	words = (strings->len + 31) / 32;
	free(strings);
}

static int is_on(const char *name)
{
	struct {
		struct ethtool_gfeatures header;
		struct ethtool_get_features_block blocks[MAX_WORDS];
	} features = { .header = { .cmd = ETHTOOL_GFEATURES, .size = words } };

	ask_ethtool(name, &features);
	return features.blocks[feature / 32].active >> feature % 32 & 1;
}

/* True if the feature went off in time. */
static int wait_until_off(const char *name, double deadline)
{
	static char event[1 << 16];
	struct pollfd pollfd = { .fd = events, .events = POLLIN };

	while (is_on(name)) {
		double left = (deadline - microseconds()) / 1000;

		if (left <= 0 || poll(&pollfd, 1, (int)left + 1) <= 0)
			return 0;
		/* Read the feature after every event, and after lost events. */
		while (recv(events, event, sizeof(event), MSG_DONTWAIT) > 0)
			;
	}
	return 1;
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

int main(int argc, char **argv)
{
	int storms = argc == 3 && !strcmp(argv[2], "storm");
	int count = argc == 2 || storms ? atoi(argv[1]) : 0, off = 0, missed = 0;
	struct storm *storm = mmap(NULL, sizeof(*storm), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	pid_t stormer = 0;
	double *times;

	if (count <= 0) {
		fprintf(stderr, "usage: react COUNT [storm]\n");
		return 64;
	}
	if (storm == MAP_FAILED)
		die("memory");
	if (storms)
		stormer = start_storm(storm);
	times = calloc(count, sizeof(*times));
	requests = open_rtnetlink(0);
	events = open_rtnetlink(RTMGRP_LINK);
	ethtool = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (!times || ethtool < 0)
		die("begin");
	find_feature("lo");
	for (int i = 0; i < count; i++) {
		char name[IFNAMSIZ];
		double began;

		snprintf(name, sizeof(name), "vx%d", i);
		create(name, i + 1);
		began = microseconds();
		if (wait_until_off(name, began + MAX_WAIT_MS * 1000.0))
			times[off++] = microseconds() - began;
		else
			missed++;
		delete(name);
		/* No program turns it off: a second wait takes another three seconds. */
		if (missed >= 5)
			break;
	}
	if (stormer) {
		int status;

		storm->stop = 1;
		if (waitpid(stormer, &status, 0) < 0 || status)
			die("the storm");
	}
	if (!off) {
		fprintf(stderr, "react: not one of %d devices was changed\n", count);
		return 1;
	}
	qsort(times, off, sizeof(*times), compare);
	printf("%.0f\t%.0f\t%.0f\t%.0f\t%d\t%lu\n", times[off / 2], times[off * 99L / 100], times[off * 999L / 1000],
	       times[off - 1], missed, storm->pairs);
	return 0;
}
