/* What a process may do: tries it, and prints a line for each attempt: `ok` or the errno, and the attempt. tests/vm/privileges runs
 * it as root, where nearly everything is allowed, and then inside each unit. Every attempt is harmless where it succeeds.
 *
 * attempts serve: what the attempts are aimed at: a process to kill, servers to connect to. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/if_alg.h>
#include <linux/if_packet.h>
#include <linux/netlink.h>
#include <linux/perf_event.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/reboot.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/swap.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/timex.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define VICTIM "/run/attempts.pid"
#define PORT 7007
static pid_t victim;

#define TRY(what, call)                                                  \
	do {                                                             \
		fflush(NULL);                                            \
		pid_t child = fork();                                    \
		if (child == 0) {                                        \
			errno = 0;                                       \
			long result = (call);                            \
			_exit(result >= 0 ? 0 : errno ? errno : 255);    \
		}                                                        \
		int status = 0;                                          \
		waitpid(child, &status, 0);                              \
		if (WIFSIGNALED(status))                                 \
			printf("signal-%d %s\n", WTERMSIG(status), what); \
		else if (WEXITSTATUS(status) == 0)                       \
			printf("ok %s\n", what);                         \
		else                                                     \
			printf("%s %s\n", strerrorname_np(WEXITSTATUS(status)), what); \
	} while (0)

/* An error that comes after the check of privileges counts as success. */
static long unless(long result, int harmless)
{
	return result < 0 && errno == harmless ? 0 : result;
}

static long reads(const char *path)
{
	char byte;
	int fd = open(path, O_RDONLY | O_NONBLOCK);
	return fd < 0 ? -1 : unless(read(fd, &byte, 1), EAGAIN);
}

static long makes(const char *dir)
{
	char path[256];
	snprintf(path, sizeof path, "%s/attempt", dir);
	int fd = open(path, O_WRONLY | O_CREAT, 0600);
	if (fd >= 0)
		unlink(path);
	return fd;
}

/* Opens for writing and writes nothing. */
static long opens(const char *path)
{
	return open(path, O_WRONLY | O_NONBLOCK);
}

static long lists(const char *path)
{
	return open(path, O_RDONLY | O_DIRECTORY);
}

static long connects(const char *path)
{
	struct sockaddr_un to = {.sun_family = AF_UNIX};
	strncpy(to.sun_path, path, sizeof to.sun_path - 1);
	return connect(socket(AF_UNIX, SOCK_STREAM, 0), (void *)&to, sizeof to);
}

static struct sockaddr_in at(int port)
{
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	return address;
}

static long connects_tcp(void)
{
	struct sockaddr_in to = at(PORT);
	struct timeval wait = {.tv_sec = 1};
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &wait, sizeof wait);
	return connect(fd, (void *)&to, sizeof to);
}

static long serves_tcp(void)
{
	struct sockaddr_in here = at(PORT + 1);
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	return bind(fd, (void *)&here, sizeof here) < 0 ? -1 : listen(fd, 1);
}

static long sends_udp(void)
{
	struct sockaddr_in to = at(PORT);
	return sendto(socket(AF_INET, SOCK_DGRAM, 0), "x", 1, 0, (void *)&to, sizeof to);
}

static long logs(void)
{
	struct sockaddr_un to = {AF_UNIX, "/run/systemd/journal/socket"};
	return sendto(socket(AF_UNIX, SOCK_DGRAM, 0), "MESSAGE=x\n", 10, 0, (void *)&to, sizeof to);
}

static long sets_mtu(void)
{
	struct ifreq of = {.ifr_name = "lo"};
	int fd = socket(AF_UNIX, SOCK_DGRAM, 0);
	return ioctl(fd, SIOCGIFMTU, &of) < 0 ? -1 : ioctl(fd, SIOCSIFMTU, &of);
}

static long sets_same_time(void)
{
	struct timespec now;
	clock_gettime(CLOCK_REALTIME, &now);
	return clock_settime(CLOCK_REALTIME, &now);
}

static long adjusts_clock(void)
{
	struct timex change = {.modes = ADJ_TICK, .tick = 10000};
	return adjtimex(&change);
}

static long sets_same_hostname(void)
{
	char name[65];
	return gethostname(name, sizeof name) < 0 ? -1 : sethostname(name, strlen(name));
}

/* A change of an own file. */
static long set_mode(int fd) { return fchmod(fd, 04755); }
static long set_owner(int fd) { return fchown(fd, 65534, 65534); }

static long changes_own_file(const char *dir, long (*change)(int fd))
{
	char path[256];
	snprintf(path, sizeof path, "%s/attempt-file", dir);
	int fd = open(path, O_WRONLY | O_CREAT, 0600);
	long result = fd < 0 ? -1 : change(fd);
	int error = errno;
	unlink(path);
	errno = error;
	return result;
}

static long makes_device(const char *dir)
{
	char path[256];
	snprintf(path, sizeof path, "%s/attempt-node", dir);
	long result = mknod(path, S_IFCHR | 0600, 0x103);
	if (result == 0)
		unlink(path);
	return result;
}

static void copies(int from, int to)
{
	char buffer[65536];
	ssize_t count;
	while ((count = read(from, buffer, sizeof buffer)) > 0)
		if (write(to, buffer, count) != count)
			_exit(EIO);
}

static char *const noop[] = {"attempts", "noop", NULL};

static long runs_own_file(const char *dir)
{
	char path[256];
	snprintf(path, sizeof path, "%s/attempt-run", dir);
	int from = open("/proc/self/exe", O_RDONLY);
	int to = open(path, O_WRONLY | O_CREAT, 0700);
	if (from < 0 || to < 0)
		return -1;
	copies(from, to);
	close(to);
	/* It removes itself. */
	char *const args[] = {"attempts", "noop", path, NULL};
	long result = execv(path, args);
	int error = errno;
	unlink(path);
	errno = error;
	return result;
}

static long runs_memory(void)
{
	int from = open("/proc/self/exe", O_RDONLY);
	int to = memfd_create("attempt", MFD_CLOEXEC);
	if (from < 0 || to < 0)
		return -1;
	copies(from, to);
	return fexecve(to, noop, environ);
}

static long writable_code(int later)
{
	int first = PROT_READ | PROT_WRITE | (later ? 0 : PROT_EXEC);
	char *page = mmap(NULL, 4096, first, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (page == MAP_FAILED)
		return -1;
	page[0] = 1;
	return later ? mprotect(page, 4096, PROT_READ | PROT_EXEC) : 0;
}

static long reads_memory_of(pid_t pid)
{
	char byte;
	struct iovec here = {&byte, 1}, there = {(void *)1, 1};
	return unless(syscall(SYS_process_vm_readv, pid, &here, 1, &there, 1, 0), EFAULT);
}

static long realtime(void)
{
	struct sched_param want = {.sched_priority = 1};
	return sched_setscheduler(0, SCHED_FIFO, &want);
}

static long traces(pid_t pid)
{
	long result = ptrace(PTRACE_SEIZE, pid, NULL, NULL);
	if (result == 0)
		ptrace(PTRACE_DETACH, pid, NULL, NULL);
	return result;
}

static long perf(void)
{
	struct perf_event_attr of = {.type = PERF_TYPE_SOFTWARE, .size = sizeof of, .config = PERF_COUNT_SW_CPU_CLOCK};
	return syscall(SYS_perf_event_open, &of, victim, -1, -1, 0);
}

static long bpf_map(void)
{
	union bpf_attr of = {.map_type = BPF_MAP_TYPE_ARRAY, .key_size = 4, .value_size = 4, .max_entries = 1};
	return syscall(SYS_bpf, BPF_MAP_CREATE, &of, sizeof of);
}

static long path_of(pid_t pid, const char *name)
{
	char path[64], target[64];
	snprintf(path, sizeof path, "/proc/%d/%s", pid, name);
	return readlink(path, target, sizeof target);
}

static long into_network_of(pid_t pid)
{
	char path[64];
	snprintf(path, sizeof path, "/proc/%d/ns/net", pid);
	int fd = open(path, O_RDONLY);
	return fd < 0 ? -1 : setns(fd, CLONE_NEWNET);
}

static void serve(void)
{
	int on = 1, fd = socket(AF_INET, SOCK_STREAM, 0);
	struct sockaddr_in here = at(PORT);
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
	if (bind(fd, (void *)&here, sizeof here) < 0 || listen(fd, 8) < 0)
		exit(1);
	struct sockaddr_un path = {AF_UNIX, "/run/attempts.sock"};
	int local = socket(AF_UNIX, SOCK_STREAM, 0);
	if (bind(local, (void *)&path, sizeof path) < 0 || listen(local, 64) < 0)
		exit(1);
	FILE *pid = fopen(VICTIM, "w");
	fprintf(pid, "%d\n", getpid());
	fclose(pid);
	for (;;)
		pause();
}

int main(int argc, char **argv)
{
	if (argc > 1 && !strcmp(argv[1], "serve"))
		serve();
	if (argc > 1) {
		if (argc > 2)
			unlink(argv[2]);
		return 0;
	}
	FILE *pid = fopen(VICTIM, "r");
	if (!pid || fscanf(pid, "%d", &victim) != 1)
		return 1;
	setvbuf(stdout, NULL, _IOLBF, 0);

	TRY("need: make a file in /run/vxcsum", makes("/run/vxcsum"));
	TRY("need: read the policy", lists("/etc/vxcsum/policy.d"));
	TRY("need: read the built-in policy", reads("/usr/lib/vxcsum/policy.toml"));
	TRY("need: read /etc/os-release", reads("/etc/os-release"));
	TRY("need: read /proc/version", reads("/proc/version"));
	TRY("need: socket, rtnetlink", socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE));
	TRY("need: socket, generic netlink", socket(AF_NETLINK, SOCK_RAW, NETLINK_GENERIC));
	TRY("need: socket, netfilter", socket(AF_NETLINK, SOCK_RAW, NETLINK_NETFILTER));
	TRY("need: write to the journal", logs());
	TRY("need: change a device", sets_mtu());
	TRY("need: socket, IPv4", socket(AF_INET, SOCK_DGRAM, 0));

	TRY("make a file in /", makes("/"));
	TRY("make a file in /etc", makes("/etc"));
	TRY("make a file in /etc/vxcsum", makes("/etc/vxcsum"));
	TRY("make a file in /usr", makes("/usr/sbin"));
	TRY("make a file in /boot", makes("/boot"));
	TRY("make a file in /home", makes("/home"));
	TRY("make a file in /root", makes("/root"));
	TRY("make a file in /var", makes("/var/lib"));
	TRY("make a file in /var/log", makes("/var/log"));
	TRY("make a file in /run", makes("/run"));
	TRY("make a file in /run/systemd/system", makes("/run/systemd/system"));
	TRY("make a file in /dev/shm", makes("/dev/shm"));
	TRY("make a file in /tmp", makes("/tmp"));
	TRY("make a file in /var/tmp", makes("/var/tmp"));
	TRY("change the own program", opens("/usr/sbin/vxcsum"));
	TRY("write to /proc/sys", opens("/proc/sys/net/ipv4/ip_forward"));
	TRY("write to /proc/sysrq-trigger", opens("/proc/sysrq-trigger"));
	TRY("write to /sys", opens("/sys/class/net/lo/ifalias"));
	TRY("write to cgroups", opens("/sys/fs/cgroup/cgroup.procs"));
	TRY("read /root", reads("/root/secret"));
	TRY("read /home", reads("/home/user/secret"));
	TRY("read /etc/shadow", reads("/etc/shadow"));
	TRY("read host keys of ssh", reads("/etc/ssh/secret"));
	TRY("read keys of Kubernetes", reads("/etc/kubernetes/secret"));
	TRY("read keys of the kubelet", reads("/var/lib/kubelet/secret"));
	TRY("read a file of another user", reads("/var/foreign/secret"));
	TRY("read a file of another user's /tmp", reads("/tmp/secret"));
	TRY("open /dev/kmsg", opens("/dev/kmsg"));
	TRY("open /dev/mem", reads("/dev/mem"));
	TRY("open a disk", reads("/dev/vda"));
	TRY("open /dev/net/tun", opens("/dev/net/tun"));
	TRY("make a device node", makes_device("/run/vxcsum"));
	TRY("read /proc/kallsyms with addresses", reads("/proc/kcore"));
	TRY("read the kernel log", syscall(SYS_syslog, 3, (char[64]){0}, 64));

	TRY("set the owner of an own file", changes_own_file("/run/vxcsum", set_owner));
	TRY("set the setuid bit of an own file", changes_own_file("/run/vxcsum", set_mode));
	TRY("setuid", setresuid(65534, 65534, 65534));
	TRY("setgid", setresgid(65534, 65534, 65534));
	TRY("set a capability", prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, 21, 0, 0));
	TRY("run a file of /run/vxcsum", runs_own_file("/run/vxcsum"));
	TRY("run a file of /tmp", runs_own_file("/tmp"));
	TRY("run a program from memory", runs_memory());
	TRY("run /bin/sh", execl("/bin/sh", "sh", "-c", ":", NULL));
	TRY("map memory to write and run", writable_code(0));
	TRY("make written memory runnable", writable_code(1));

	TRY("signal another process of root", kill(victim, 0));
	TRY("signal a thread of it", syscall(SYS_tgkill, victim, victim, 0));
	TRY("signal it with a value", sigqueue(victim, 0, (union sigval){0}));
	TRY("signal it by a descriptor", syscall(SYS_pidfd_send_signal, syscall(SYS_pidfd_open, victim, 0), 0, NULL, 0));
	TRY("see another process", path_of(victim, "exe"));
	TRY("read memory of another process", reads_memory_of(victim));
	TRY("trace another process", traces(victim));
	TRY("set limits of another process", prlimit(victim, RLIMIT_NOFILE, &(struct rlimit){64, 4096}, NULL));
	TRY("set the priority of another process", setpriority(PRIO_PROCESS, victim, -1));
	TRY("real-time priority", realtime());
	TRY("lock memory", mlockall(MCL_CURRENT));
	TRY("measure another process", perf());
	TRY("kernel keys", syscall(SYS_add_key, "user", "attempt", "x", 1, -3));

	TRY("user namespace", unshare(CLONE_NEWUSER));
	TRY("mount namespace", unshare(CLONE_NEWNS));
	TRY("network namespace", unshare(CLONE_NEWNET));
	TRY("network namespace of another process", into_network_of(victim));
	TRY("mount", mount("none", "/run/vxcsum", "tmpfs", 0, NULL) < 0 ? -1 : umount("/run/vxcsum"));
	TRY("chroot", chroot("/run"));
	TRY("load a module", unless(syscall(SYS_init_module, "x", 1L, ""), ENOEXEC));
	TRY("unload a module", unless(syscall(SYS_delete_module, "no_such_module", 0), ENOENT));
	TRY("load a kernel", unless(syscall(SYS_kexec_load, 0L, 0L, NULL, 0L), EINVAL));
	TRY("reboot", reboot(RB_DISABLE_CAD));
	TRY("swap", unless(swapoff("/no/such/file"), ENOENT));
	TRY("set the time", sets_same_time());
	TRY("adjust the clock", adjusts_clock());
	TRY("set the host name", sets_same_hostname());
	TRY("another architecture", personality(PER_LINUX32));
	TRY("BPF map", bpf_map());
	TRY("io_uring", unless(syscall(SYS_io_uring_setup, 1, NULL), EFAULT));
	TRY("userfaultfd", syscall(SYS_userfaultfd, O_CLOEXEC));
	TRY("I/O ports", syscall(SYS_iopl, 3));

	TRY("socket, raw", socket(AF_INET, SOCK_RAW, IPPROTO_ICMP));
	TRY("socket, packets", socket(AF_PACKET, SOCK_RAW, 0));
	TRY("socket, kernel crypto", socket(AF_ALG, SOCK_SEQPACKET, 0));
	TRY("socket, audit", socket(AF_NETLINK, SOCK_RAW, NETLINK_AUDIT));
	TRY("connect by TCP", connects_tcp());
	TRY("serve TCP", serves_tcp());
	TRY("send by UDP", sends_udp());
	TRY("connect to a server of this machine", connects("/run/attempts.sock"));
	TRY("connect to D-Bus", connects("/run/dbus/system_bus_socket"));
	TRY("connect to systemd", connects("/run/systemd/private"));
	return 0;
}
