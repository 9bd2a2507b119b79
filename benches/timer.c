/*
 * timer: runs commands in turn, many times, inside a network namespace, and prints medians.
 *
 * It enters the namespace once. It measures fork, exec and the command itself. Taking turns (A B C A B C) keeps the
 * ratios honest on a machine whose load changes.
 *
 * Usage: timer NAMESPACE ROUNDS <SPEC
 * SPEC has one command a line: LABEL, a tab, a command to run untimed before it (or -), a tab, the command. Words are split
 * at spaces. Prints a line per command: LABEL, median and least wall time in microseconds, peak memory in KiB, failed runs, median
 * CPU time in microseconds.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MAX_COMMANDS 16
#define MAX_WORDS 32
#define MAX_ROUNDS 1000

struct command {
	char *label;
	char *before[MAX_WORDS];
	char *words[MAX_WORDS];
	double took[MAX_ROUNDS], cpu[MAX_ROUNDS];
	long peak_kib;
	int failed;
};

static struct command commands[MAX_COMMANDS];
static posix_spawn_file_actions_t quiet;

static void die(const char *what)
{
	fprintf(stderr, "timer: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void split(char *text, char **words)
{
	int count = 0;

	for (char *word = strtok(text, " "); word && count < MAX_WORDS - 1; word = strtok(NULL, " "))
		words[count++] = word;
	words[count] = NULL;
}

static double now_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1e6 + t.tv_nsec / 1e3;
}

/* Returns the wait status. posix_spawn does not copy this process, so its memory is not counted as the command's. */
static int run(char **words, struct rusage *usage)
{
	pid_t child;
	int status;

	errno = posix_spawnp(&child, words[0], &quiet, NULL, words, environ);
	if (errno)
		die(words[0]);
	if (wait4(child, &status, 0, usage) < 0)
		die("wait");
	return status;
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

int main(int argc, char **argv)
{
	static char path[256], line[MAX_COMMANDS][4096];
	int rounds = argc == 3 ? atoi(argv[2]) : 0, count = 0;

	if (rounds < 1 || rounds > MAX_ROUNDS) {
		fprintf(stderr, "usage: timer NAMESPACE ROUNDS <SPEC\n");
		return 64;
	}
	snprintf(path, sizeof path, "/run/netns/%s", argv[1]);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || setns(fd, CLONE_NEWNET) < 0)
		die(path);
	posix_spawn_file_actions_init(&quiet);
	posix_spawn_file_actions_addopen(&quiet, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
	posix_spawn_file_actions_addopen(&quiet, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);

	while (count < MAX_COMMANDS && fgets(line[count], sizeof line[count], stdin)) {
		struct command *command = &commands[count];
		char *rest = line[count];

		rest[strcspn(rest, "\n")] = 0;
		command->label = strsep(&rest, "\t");
		char *before = strsep(&rest, "\t");
		if (!rest) {
			fprintf(stderr, "timer: line %d has no command\n", count + 1);
			return 64;
		}
		if (strcmp(before, "-"))
			split(before, command->before);
		split(rest, command->words);
		count++;
	}

	for (int round = 0; round < rounds; round++) {
		for (int i = 0; i < count; i++) {
			struct command *command = &commands[i];
			struct rusage usage;

			if (command->before[0] && run(command->before, &usage) != 0) {
				fprintf(stderr, "timer: %s failed\n", command->before[0]);
				return 1;
			}
			double start = now_us();
			command->failed += run(command->words, &usage) != 0;
			command->took[round] = now_us() - start;
			command->cpu[round] = (usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1e6 +
					      usage.ru_utime.tv_usec + usage.ru_stime.tv_usec;
			if (usage.ru_maxrss > command->peak_kib)
				command->peak_kib = usage.ru_maxrss;
		}
	}
	for (int i = 0; i < count; i++) {
		struct command *command = &commands[i];

		qsort(command->took, rounds, sizeof(double), by_value);
		qsort(command->cpu, rounds, sizeof(double), by_value);
		printf("%s\t%.0f\t%.0f\t%ld\t%d\t%.0f\n", command->label, command->took[rounds / 2], command->took[0],
		       command->peak_kib, command->failed, command->cpu[rounds / 2]);
	}
	return 0;
}
