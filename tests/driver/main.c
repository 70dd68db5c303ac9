// SPDX-License-Identifier: Apache-2.0 OR MIT
/*
 * driver-test CHANNEL TEST...: tests of /dev/longpin0, told as TAP on CHANNEL, a serial line to the host.
 *
 * A line "@ WORD" asks the host to do something to the device; it answers with a line when that is done.
 */
#define _GNU_SOURCE
#include "driver_test.h"

#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <termios.h>

#define EXIT_FAILED 1
#define EXIT_SKIPPED 4
/* Longer than any test but the storms, which have a limit of their own, and shorter than the host's patience. */
#define TEST_S 600

static const struct {
	const char *name;
	void (*run)(void);
} tests[] = {
	{ "info", test_info },
	{ "anonymous", test_anonymous },
	{ "shmem", test_shmem },
	{ "file", test_file },
	{ "huge-pages", test_huge_pages },
	{ "folio-without-mapping", test_folio_without_mapping },
	{ "scattered", test_scattered },
	{ "gigabyte", test_gigabyte },
	{ "errors", test_errors },
	{ "fuzz", test_fuzz },
	{ "program", test_program },
	{ "many-programs", test_many_programs },
	{ "ten-thousand-pins", test_ten_thousand_pins },
	{ "memlock-limit", test_memlock_limit },
	{ "capability", test_capability },
	{ "compat", test_compat },
	{ "failing-allocations", test_failing_allocations },
	{ "killed-owner", test_killed_owner },
	{ "racing-threads", test_racing_threads },
	{ "passed-descriptor", test_passed_descriptor },
	{ "unresolved-fault", test_unresolved_fault },
	{ "unbind", test_unbind },
	{ "racing-unbind", test_racing_unbind },
	{ "silent-device", test_silent_device },
	{ "slow-device", test_slow_device },
	{ "lying-device", test_lying_device },
	{ "pulled-out", test_pulled_out },
	{ "hot-removal", test_hot_removal },
	{ "dead-daemon", test_dead_daemon },
	{ "mirror", test_mirror },
	{ "mirror-read", test_mirror_read },
	{ "mirror-changes", test_mirror_changes },
	{ "mirror-file", test_mirror_file },
	{ "mirror-madv-free", test_mirror_madv_free },
	{ "mirror-killed", test_mirror_killed },
	{ "mirror-unbind", test_mirror_unbind },
	{ "mirror-silent", test_mirror_silent },
	{ "mirror-storm", test_mirror_storm },
	{ "mirror-cost", test_mirror_cost },
	{ "kill-storm", test_kill_storm },
	{ "unbind-storm", test_unbind_storm },
	{ "module-storm", test_module_storm },
	{ "plug-storm", test_plug_storm },
};

/* Why the child ends; the parent prints it behind the result. */
static char *reason;
static FILE *channel;
static FILE *answers;

_Noreturn static void end(int code, const char *prefix, const char *format, va_list arguments)
{
	int n = snprintf(reason, PAGE, "%s", prefix);

	vsnprintf(reason + n, PAGE - n, format, arguments);
	_exit(code);
}

_Noreturn void fail_at(const char *file, int line, const char *format, ...)
{
	va_list arguments;
	char prefix[128];

	snprintf(prefix, sizeof(prefix), "%s:%d: ", file, line);
	va_start(arguments, format);
	end(EXIT_FAILED, prefix, format, arguments);
}

_Noreturn static void skip_for(const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	end(EXIT_SKIPPED, "", format, arguments);
}

_Noreturn void skip(const char *why)
{
	skip_for("%s", why);
}

void note(const char *format, ...)
{
	va_list arguments;

	fputs("# ", channel);
	va_start(arguments, format);
	vfprintf(channel, format, arguments);
	va_end(arguments);
	fputc('\n', channel);
}

void ask_host(const char *what)
{
	char answer[64];

	fprintf(channel, "@ %s\n", what);
	CHECK(fgets(answer, sizeof(answer), answers));
}

/* Both directions as they are: no echo, no line ends changed. */
static bool open_channel(const char *path)
{
	struct termios settings;

	answers = fopen(path, "re");
	channel = fopen(path, "we");
	if (!answers || !channel)
		return false;
	if (tcgetattr(fileno(channel), &settings) == 0) {
		cfmakeraw(&settings);
		tcsetattr(fileno(channel), TCSANOW, &settings);
	}
	setvbuf(channel, NULL, _IOLBF, 0);
	return true;
}

static void run(int number, const char *name, void (*test)(void))
{
	double begin = now_s();
	int status;
	pid_t child;

	reason[0] = '\0';
	child = fork();
	if (child == 0) {
		alarm(TEST_S);
		test();
		exit(0);
	}
	if (child < 0 || waitpid(child, &status, 0) != child)
		fprintf(channel, "not ok %d - %s\n# no process: %s\n", number, name, strerrorname_np(errno));
	else if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
		fprintf(channel, "ok %d - %s\n", number, name);
	else if (WIFEXITED(status) && WEXITSTATUS(status) == EXIT_SKIPPED)
		fprintf(channel, "ok %d - %s # SKIP %s\n", number, name, reason);
	else if (WIFSIGNALED(status))
		fprintf(channel, "not ok %d - %s\n# killed by signal %d\n", number, name, WTERMSIG(status));
	else
		fprintf(channel, "not ok %d - %s\n# %s\n", number, name, reason);
	note("%s took %.1f s", name, now_s() - begin);
}

static void nothing(int signal)
{
	(void)signal;
}

int main(int argc, char **argv)
{
	const struct sigaction interrupt = { .sa_handler = nothing };
	size_t nr_tests = sizeof(tests) / sizeof(*tests);
	int memfd;

	if (argc < 3 || !open_channel(argv[1])) {
		fprintf(stderr, "usage: driver-test CHANNEL TEST...\n");
		return 2;
	}
	/* test_program() interrupts itself: without a restart. */
	sigaction(SIGUSR1, &interrupt, NULL);
	reason = (char *)map_memfd(PAGE, &memfd);
	fprintf(channel, "TAP version 13\n1..%d\n", argc - 2);
	for (int i = 2; i < argc; i++) {
		size_t t = 0;

		while (t < nr_tests && strcmp(tests[t].name, argv[i]))
			t++;
		if (t < nr_tests)
			run(i - 1, argv[i], tests[t].run);
		else
			fprintf(channel, "not ok %d - %s\n# no such test\n", i - 1, argv[i]);
	}
	fprintf(channel, "@ end\n");
	return 0;
}
