/* short CALL N LENGTH PROGRAM [ARGUMENT...]: runs a program, and makes its Nth call of CALL (a number) ask for LENGTH bytes at most. The
 * kernel then really reads or writes less: strace(1) can only claim that. Writes a line to the file SHORT_LOG
 * if it did. For x86_64.
 */
#define _GNU_SOURCE
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ptrace.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	if (argc < 5)
		return 125;
	long call = atol(argv[1]), nth = atol(argv[2]);
	unsigned long length = strtoul(argv[3], NULL, 10);
	FILE *log = fopen(getenv("SHORT_LOG"), "w");
	if (!log)
		return 125;
	pid_t child = fork();
	if (child == 0) {
		ptrace(PTRACE_TRACEME, 0, NULL, NULL);
		execv(argv[4], argv + 4);
		_exit(127);
	}
	int status, inside = 0, deliver = 0;
	waitpid(child, &status, 0);
	ptrace(PTRACE_SETOPTIONS, child, NULL, PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL);
	for (long seen = 0;; ) {
		ptrace(PTRACE_SYSCALL, child, NULL, deliver);
		if (waitpid(child, &status, 0) < 0 || WIFEXITED(status))
			return WEXITSTATUS(status);
		if (WIFSIGNALED(status))
			return 128 + WTERMSIG(status);
		deliver = WSTOPSIG(status) == (SIGTRAP | 0x80) ? 0 : WSTOPSIG(status);
		if (deliver)
			continue;
		inside = !inside;
		struct user_regs_struct at;
		ptrace(PTRACE_GETREGS, child, NULL, &at);
		if (!inside || (long)at.orig_rax != call || ++seen != nth)
			continue;
		if (at.rdx > length) {
			at.rdx = length;
			ptrace(PTRACE_SETREGS, child, NULL, &at);
			fputs("short\n", log);
			fflush(log);
		}
	}
}
