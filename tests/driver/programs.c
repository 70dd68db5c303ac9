// SPDX-License-Identifier: Apache-2.0 OR MIT
/* DMA programs: their life from submission to collection, and how many there may be. */
#define _GNU_SOURCE
#include "driver_test.h"

#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>

#define MAX_PROGRAMS 5000
/* guest-driver/program.rs: ended programs that nobody collects, in one file. */
#define MAX_UNCOLLECTED 4096

static int poll_in(int fd, int timeout_ms)
{
	struct pollfd poll_fd = { .fd = fd, .events = POLLIN };

	return poll(&poll_fd, 1, timeout_ms);
}

/* Stopped, seen by poll, collected once. */
static void stop_and_collect(int fd, struct longpin_submit *program)
{
	struct longpin_stop stop = { .program = program->program };
	struct longpin_wait end, *read_only = map_anonymous(PAGE);

	CHECK(ioctl(fd, LONGPIN_IOC_STOP, &stop) == 0);
	CHECK(poll_in(fd, SOON_MS) == 1);
	/* It has ended already: no error. */
	CHECK(ioctl(fd, LONGPIN_IOC_STOP, &stop) == 0);

	/* An answer that cannot be written does not lose it. */
	*read_only = (struct longpin_wait){ .program = program->program };
	CHECK(mprotect(read_only, PAGE, PROT_READ) == 0);
	CHECK_ERRNO(ioctl(fd, LONGPIN_IOC_WAIT, read_only), EFAULT);
	CHECK(poll_in(fd, 0) == 1);

	CHECK(wait_for(fd, program->program, 0, &end) == 0);
	CHECK(end.status == STATUS_STOPPED && end.cells_done > 0);
	CHECK(end.started_ns && end.finished_ns >= end.started_ns);
	CHECK(poll_in(fd, 0) == 0);
	CHECK_ERRNO(ioctl(fd, LONGPIN_IOC_STOP, &stop), ENOENT);
}

/* A signal ends the wait and not the program. */
static void interrupted_wait(int fd, uint32_t region, uint64_t len)
{
	struct longpin_submit program = endless_program(region, len, 20000);
	struct longpin_wait end;
	pid_t child;

	CHECK(submit(fd, &program) == 0);
	child = fork();
	if (child == 0) {
		/* Again and again, since one that comes before the wait interrupts nothing. */
		while (kill(getppid(), SIGUSR1) == 0)
			usleep(10000);
		_exit(0);
	}
	CHECK_ERRNO(wait_for(fd, program.program, SOON_MS, &end), EINTR);
	CHECK(kill(child, SIGKILL) == 0);
	while (waitpid(child, NULL, 0) != child)
		CHECK(errno == EINTR);
}

void test_program(void)
{
	size_t len = 64 * PAGE;
	unsigned char *memory = map_anonymous(len);
	struct longpin_submit program;
	struct longpin_query state;
	struct longpin_pin region;
	struct longpin_wait end;
	int fd = open_device();
	double begin;

	CHECK(pin(fd, memory, len, LONGPIN_MODE_LONGTERM, LONGPIN_ACCESS_WRITE, &region) == 0);
	program = endless_program(region.region, len, 20000);
	CHECK(submit(fd, &program) == 0);
	CHECK(poll_in(fd, 0) == 0);
	EVENTUALLY(!memcmp(memory, "LONGPIN\x01", 8));
	CHECK(query(fd, region.region, 0, &state) == 0 && state.nr_running == 1);
	CHECK(info(fd).nr_programs == 1 && info(fd).nr_regions == 1);
	begin = now_s();
	CHECK_ERRNO(wait_for(fd, program.program, 200, &end), ETIMEDOUT);
	CHECK(now_s() - begin >= 0.19);
	stop_and_collect(fd, &program);

	/* Release ends programs, and they are collected after it. */
	memset(memory, 0, len);
	program = endless_program(region.region, len, BUSY_CELLS_PER_S);
	CHECK(submit(fd, &program) == 0);
	EVENTUALLY(memory[len - CELL]);
	CHECK(release(fd, region.region, LONGPIN_RELEASE_DIRTY) == 0);
	check_quiet(memory, len);
	CHECK(wait_for(fd, program.program, SOON_MS, &end) == 0 && end.status == STATUS_STOPPED);

	/* The other direction. */
	CHECK(pin(fd, memory, len, LONGPIN_MODE_PIN, LONGPIN_ACCESS_READ, &region) == 0);
	program = fill_program(region.region, 0, len, 0);
	program.direction = DIRECTION_READ;
	CHECK(submit(fd, &program) == 0 && wait_for(fd, program.program, SOON_MS, &end) == 0);
	CHECK(end.status == STATUS_OK && end.crc32c != 0);
	interrupted_wait(fd, region.region, len);
}

/* As many as the queue takes run at once; each of them ends. */
static void fill_the_queue(int fd, const void *memory, size_t len)
{
	static uint64_t handles[MAX_PROGRAMS];
	uint32_t nr_programs = 0, nr_stopped = 0, nr_over = 0;
	struct longpin_submit program;
	struct longpin_pin region;
	struct longpin_wait end;

	CHECK(pin(fd, memory, len, LONGPIN_MODE_LONGTERM, LONGPIN_ACCESS_WRITE, &region) == 0);
	for (;;) {
		program = endless_program(region.region, len, 10);
		if (submit(fd, &program) != 0)
			break;
		CHECK(nr_programs < MAX_PROGRAMS);
		handles[nr_programs++] = program.program;
	}
	CHECK(errno == EAGAIN && nr_programs >= 64 && info(fd).nr_programs == nr_programs);
	CHECK(release(fd, region.region, LONGPIN_RELEASE_CLEAN) == 0);
	for (uint32_t i = 0; i < nr_programs; i++) {
		CHECK(wait_for(fd, handles[i], SOON_MS, &end) == 0);
		nr_stopped += end.status == STATUS_STOPPED;
		nr_over += end.status == STATUS_LIMIT;
	}
	note("%u programs at once: %u stopped, %u over the device's limit", nr_programs, nr_stopped, nr_over);
	CHECK(nr_stopped + nr_over == nr_programs);
}

void test_many_programs(void)
{
	size_t len = 256 * PAGE;
	void *memory = map_anonymous(len);
	int nr_uncollected = 0, fd = open_device();
	struct longpin_submit program;
	struct longpin_pin region;
	double refused_since = 0;

	fill_the_queue(fd, memory, len);
	/* What nobody collects is bounded: at the limit nothing is taken, also when nothing runs any more. */
	CHECK(pin(fd, memory, len, LONGPIN_MODE_LONGTERM, LONGPIN_ACCESS_WRITE, &region) == 0);
	while (nr_uncollected < MAX_UNCOLLECTED) {
		program = fill_program(region.region, 0, CELL, 1);
		if (submit(fd, &program) == 0) {
			nr_uncollected++;
			refused_since = 0;
			continue;
		}
		/* The queue is full for the moment. */
		CHECK(errno == EAGAIN);
		refused_since = refused_since ? refused_since : now_s();
		CHECK(now_s() - refused_since < SOON_S);
		usleep(1000);
	}
	program = fill_program(region.region, 0, CELL, 1);
	CHECK_ERRNO(submit(fd, &program), EAGAIN);
}
