// SPDX-License-Identifier: Apache-2.0 OR MIT
/*
 * Each way by which an owner or a device can go in the middle of DMA, over and over, as often as STORM_ROUNDS says: what
 * goes wrong once in a hundred times is seen. Pins are counted each time; that no page is written to after it was given
 * back is read from the ledger.
 */
#define _GNU_SOURCE
#include "driver_test.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/wait.h>

/* A round in so many looks with its own eyes, which takes its time. */
#define LOOK_EVERY 50
#define LEN (32 * PAGE)

extern char **environ;

static struct longpin_submit start_writing(int fd, unsigned char *memory, unsigned int mode)
{
	struct longpin_submit program;
	struct longpin_pin region;

	CHECK(pin(fd, memory, LEN, mode, LONGPIN_ACCESS_WRITE, &region) == 0);
	program = endless_program(region.region, LEN, BUSY_CELLS_PER_S);
	CHECK(submit(fd, &program) == 0);
	return program;
}

static int nr_rounds(void)
{
	const char *rounds = getenv("STORM_ROUNDS");

	CHECK(rounds && atoi(rounds) > 0);
	return atoi(rounds);
}

static unsigned int mode_of(int round)
{
	return 1 + round % 3;
}

void test_kill_storm(void)
{
	int memfd;
	unsigned char *memory = map_memfd(LEN, &memfd);
	int64_t before = pins_held();
	int rounds = nr_rounds();

	alarm(STORM_S);
	for (int round = 0; round < rounds; round++) {
		pid_t owner;

		memset(memory, 0, LEN);
		owner = fork();
		if (owner == 0) {
			start_writing(open_device(), memory, mode_of(round));
			for (;;)
				pause();
		}
		CHECK(owner > 0);
		EVENTUALLY(memory[0]);
		CHECK(kill(owner, SIGKILL) == 0 && waitpid(owner, NULL, 0) == owner);
		CHECK(pins_held() == before);
		if (round % LOOK_EVERY == 0)
			check_quiet(memory, LEN);
	}
	close(memfd);
}

void test_unbind_storm(void)
{
	unsigned char *memory = map_anonymous(LEN);
	int64_t before = pins_held();
	int rounds = nr_rounds();

	alarm(STORM_S);
	for (int round = 0; round < rounds; round++) {
		int fd = open_device();

		memset(memory, 0, LEN);
		start_writing(fd, memory, mode_of(round));
		EVENTUALLY(memory[0]);
		unbind_device();
		CHECK(pins_held() == before && pinned_kib() == 0);
		/* The old file goes before its device is back, or after. */
		if (round % 2)
			close(fd);
		bind_device();
		if (round % 2 == 0)
			close(fd);
		if (round % LOOK_EVERY == 0)
			check_quiet(memory, LEN);
	}
}

static atomic_bool enough;
static atomic_long nr_closes;

/* Closes its file while the device writes, over and over; whenever it is closed, the module can go. */
static void *open_and_close(void *argument)
{
	unsigned char *memory = map_anonymous(LEN);
	struct longpin_submit program;
	struct longpin_pin region;

	(void)argument;
	for (int round = 0; !enough; round++) {
		/* The module may be on its way out or in at any of these. */
		int fd = open(DEVICE, O_RDWR | O_CLOEXEC);

		if (fd < 0)
			continue;
		if (pin(fd, memory, LEN, mode_of(round), LONGPIN_ACCESS_WRITE, &region) == 0) {
			program = endless_program(region.region, LEN, BUSY_CELLS_PER_S);
			submit(fd, &program);
		}
		close(fd);
		nr_closes++;
	}
	return NULL;
}

static int remove_module(const char *name)
{
	return syscall(SYS_delete_module, name, O_NONBLOCK);
}

static int run_program(char *const *argv)
{
	int status;
	pid_t child;

	CHECK(posix_spawnp(&child, argv[0], NULL, NULL, argv, environ) == 0);
	CHECK(waitpid(child, &status, 0) == child);
	return status;
}

/* An open file holds the module; its removal comes as soon after the close as can be, in front of the next open. */
void test_module_storm(void)
{
	char *const load[] = { "modprobe", "longpin", NULL };
	int64_t before = pins_held();
	int rounds = nr_rounds();
	long refused = 0;
	pthread_t thread;
	int fd;

	alarm(STORM_S);
	CHECK(pthread_create(&thread, NULL, open_and_close, NULL) == 0);
	for (int round = 0; round < rounds; round++) {
		long closed = nr_closes;

		EVENTUALLY(nr_closes > closed);
		while (remove_module("longpin") != 0) {
			CHECK(errno == EAGAIN);
			refused++;
		}
		CHECK(pins_held() == before);
		CHECK(run_program(load) == 0);
	}
	enough = true;
	CHECK(pthread_join(thread, NULL) == 0);
	note("%d removals, %ld refused since the device was open, %ld files closed", rounds, refused,
	     atomic_load(&nr_closes));
	CHECK(refused > 0);
	fd = open_device();
	check_balance(fd, before);
}

/* The function goes, as of a card that is taken out by its lever, and another one comes. */
void test_plug_storm(void)
{
	unsigned char *memory = map_anonymous(LEN);
	int64_t before = pins_held();
	int rounds = nr_rounds();

	alarm(STORM_S);
	for (int round = 0; round < rounds; round++) {
		int fd = open_device();

		memset(memory, 0, LEN);
		start_writing(fd, memory, mode_of(round));
		EVENTUALLY(memory[0]);
		ask_host("unplug");
		EVENTUALLY(access(DEVICE, F_OK) != 0);
		CHECK(pins_held() == before && pinned_kib() == 0);
		close(fd);
		ask_host("plug");
		EVENTUALLY(access(DEVICE, F_OK) == 0);
		if (round % LOOK_EVERY == 0)
			check_quiet(memory, LEN);
	}
}
