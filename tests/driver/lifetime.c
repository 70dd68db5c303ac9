// SPDX-License-Identifier: Apache-2.0 OR MIT
/* Owners that die, and threads that use one open file against each other. */
#define _GNU_SOURCE
#include "driver_test.h"

#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/wait.h>

#define NR_THREADS 6
#define NR_ROUNDS 3
#define OPERATIONS_PER_THREAD 1500

/* Pins, lets the device write at full speed, and never ends by itself. */
_Noreturn static void own_for_ever(unsigned char *memory, size_t len, unsigned int mode)
{
	int fd = open_device();
	struct longpin_submit program;
	struct longpin_pin region;

	CHECK(pin(fd, memory, len, mode, LONGPIN_ACCESS_WRITE, &region) == 0);
	for (int i = 0; i < 4; i++) {
		program = endless_program(region.region, len, 0);
		CHECK(submit(fd, &program) == 0);
	}
	for (;;)
		pause();
}

void test_killed_owner(void)
{
	size_t len = 256 * PAGE;
	int64_t before = pins_held();
	int fd = open_device();

	for (int i = 0; i < 10; i++) {
		int memfd;
		unsigned char *memory = map_memfd(len, &memfd);
		pid_t owner = fork();

		if (owner == 0)
			own_for_ever(memory, len, 1 + i % 3);
		EVENTUALLY(memory[len - CELL]);
		CHECK(kill(owner, SIGKILL) == 0 && waitpid(owner, NULL, 0) == owner);
		/* The last close of the file is done by the dying task before its parent hears of it. */
		check_balance(fd, before);
		check_quiet(memory, len);
		close(memfd);
	}
}

/* What the threads throw at each other. */
static struct {
	int fd;
	_Atomic uint32_t region;
	_Atomic uint64_t program;
} shared;

static unsigned int next(unsigned int *seed)
{
	*seed = *seed * 1103515245 + 12345;
	return *seed >> 8;
}

static void swap_region(unsigned char *memory, unsigned int *seed)
{
	struct longpin_pin region;
	uint32_t old;

	if (pin(shared.fd, memory, (1 + next(seed) % 64) * PAGE, 1 + next(seed) % 3, next(seed) & 1, &region) != 0)
		return;
	old = atomic_exchange(&shared.region, region.region);
	if (old)
		release(shared.fd, old, next(seed) & 1);
}

static void start_program(unsigned int *seed)
{
	struct longpin_submit program = endless_program(shared.region, PAGE, 1000);

	program.passes = next(seed) % 5;
	if (submit(shared.fd, &program) == 0)
		shared.program = program.program;
}

static void collect_anything(void)
{
	struct pollfd poll_fd = { .fd = shared.fd, .events = POLLIN };
	uint64_t newest = shared.program;
	struct longpin_wait end;

	poll(&poll_fd, 1, 1);
	for (uint64_t handle = newest; handle && handle + 50 > newest; handle--)
		wait_for(shared.fd, handle, 0, &end);
}

static void *misuse(void *argument)
{
	unsigned int seed = (uintptr_t)argument * 7919 + 1;
	unsigned char *memory = map_anonymous(64 * PAGE);
	struct longpin_query state;
	struct longpin_wait end;
	struct longpin_stop stop;

	/* Any errno is right, since the others are at it too; the balance tells at the end. */
	for (int i = 0; i < OPERATIONS_PER_THREAD; i++) {
		switch (next(&seed) % 9) {
		case 0:
		case 1:
			swap_region(memory, &seed);
			break;
		case 2:
			release(shared.fd, shared.region, LONGPIN_RELEASE_CLEAN);
			break;
		case 3:
		case 4:
			start_program(&seed);
			break;
		case 5:
			wait_for(shared.fd, shared.program, next(&seed) % 3, &end);
			break;
		case 6:
			stop.program = shared.program;
			ioctl(shared.fd, LONGPIN_IOC_STOP, &stop);
			break;
		case 7:
			query(shared.fd, shared.region, next(&seed) % 3, &state);
			break;
		default:
			collect_anything();
		}
	}
	return NULL;
}

void test_racing_threads(void)
{
	int64_t before = pins_held();
	pthread_t threads[NR_THREADS];
	int fd;

	for (uintptr_t round = 0; round < NR_ROUNDS; round++) {
		shared.fd = open_device();
		shared.region = 0;
		shared.program = 0;
		for (uintptr_t i = 0; i < NR_THREADS; i++)
			CHECK(pthread_create(&threads[i], NULL, misuse, (void *)(i + round * 10)) == 0);
		for (int i = 0; i < NR_THREADS; i++)
			CHECK(pthread_join(threads[i], NULL) == 0);
		/* With whatever still runs. */
		close(shared.fd);
	}
	fd = open_device();
	check_balance(fd, before);
}
