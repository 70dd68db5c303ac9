// SPDX-License-Identifier: Apache-2.0 OR MIT
/* A device that goes away, falls silent or dies: pages come back, and nobody writes into them any more. */
#define _GNU_SOURCE
#include "driver_test.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/wait.h>

/* Of the module, for the test of a silent device. */
#define DEVICE_TIMEOUT_S 2
/* What fits in one request to map, and how late the device answers it: device/src/accel/faults.rs. */
#define SEGMENTS_PER_REQUEST 2048
#define SLOW_ANSWER_S 1.2

#define NR_THREADS 4
#define NR_UNBINDS 20

/* A region with a program that writes it over and over, seen to do so. */
struct busy {
	struct longpin_pin region;
	struct longpin_submit program;
};

static struct busy start_busy(int fd, unsigned char *memory, size_t len, unsigned int mode)
{
	struct busy busy;

	memset(memory, 0, len);
	CHECK(pin(fd, memory, len, mode, LONGPIN_ACCESS_WRITE, &busy.region) == 0);
	busy.program = endless_program(busy.region.region, len, BUSY_CELLS_PER_S);
	CHECK(submit(fd, &busy.program) == 0);
	EVENTUALLY(memory[len - CELL]);
	return busy;
}

/* What poll() says at once, whether anything was asked for or not. */
static short polled(int fd)
{
	struct pollfd poll_fd = { .fd = fd };

	CHECK(poll(&poll_fd, 1, SOON_MS) == 1);
	return poll_fd.revents;
}

/* An open file whose device has gone. */
static void check_orphaned(int fd, const struct busy *busy, unsigned char *memory)
{
	struct pollfd poll_fd = { .fd = fd, .events = POLLIN };
	struct longpin_pin region;
	struct longpin_wait end;

	CHECK(poll(&poll_fd, 1, SOON_MS) == 1 && (poll_fd.revents & POLLIN));
	CHECK_ERRNO(wait_for(fd, busy->program.program, SOON_MS, &end), ENODEV);
	CHECK(polled(fd) == (POLLERR | POLLHUP));
	CHECK_ERRNO(wait_for(fd, busy->program.program, 0, &end), ENOENT);
	CHECK_ERRNO(pin(fd, memory, PAGE, LONGPIN_MODE_LONGTERM, LONGPIN_ACCESS_WRITE, &region), ENODEV);
}

void test_unbind(void)
{
	size_t len = 512 * PAGE;
	int64_t before = pins_held();

	for (int round = 0; round < 5; round++) {
		int memfd, fd = open_device(), again;
		unsigned char *memory = map_memfd(len, &memfd);
		struct busy busy = start_busy(fd, memory, len, 1 + round % 3);
		struct longpin_info state;

		unbind_device();
		CHECK(pins_held() == before && pinned_kib() == 0);
		state = info(fd);
		CHECK(state.device_alive == 0 && state.pages_pinned == 0);
		CHECK(state.nr_regions == 1 && state.nr_programs == 1);
		check_orphaned(fd, &busy, memory);
		CHECK_ERRNO(open(DEVICE, O_RDWR | O_CLOEXEC), ENOENT);
		/* The old file may be closed before the device is back, or live on beside the new one. */
		if (round % 2)
			close(fd);

		bind_device();
		check_quiet(memory, len);
		again = open_device();
		CHECK(pin(again, memory, len, LONGPIN_MODE_LONGTERM, LONGPIN_ACCESS_WRITE, &busy.region) == 0);
		dma_fill(again, busy.region.region, 0, len, 0x77);
		CHECK(all_bytes(memory, len, 0x77));
		if (round % 2 == 0) {
			CHECK_ERRNO(pin(fd, memory, PAGE, LONGPIN_MODE_LONGTERM, LONGPIN_ACCESS_WRITE, &busy.region),
				    ENODEV);
			close(fd);
		}
		close(again);
		close(memfd);
		CHECK(pins_held() == before);
	}
}

static atomic_bool enough;
static atomic_long nr_pins;

static void *pin_all_the_time(void *argument)
{
	size_t len = 2048 * PAGE;
	unsigned char *memory = map_anonymous(len);
	struct longpin_submit program;
	struct longpin_pin region;

	(void)argument;
	while (!enough) {
		int fd = open(DEVICE, O_RDWR | O_CLOEXEC);

		/* Between unbind and bind there is no device. */
		if (fd < 0)
			continue;
		for (int i = 0; i < 20; i++) {
			if (pin(fd, memory, len, 1 + i % 3, LONGPIN_ACCESS_WRITE, &region) != 0)
				continue;
			nr_pins++;
			program = endless_program(region.region, len, 20000);
			submit(fd, &program);
			if (i & 1)
				release(fd, region.region, LONGPIN_RELEASE_DIRTY);
		}
		close(fd);
	}
	return NULL;
}

void test_racing_unbind(void)
{
	int64_t before = pins_held();
	pthread_t threads[NR_THREADS];
	int fd;

	for (int i = 0; i < NR_THREADS; i++)
		CHECK(pthread_create(&threads[i], NULL, pin_all_the_time, NULL) == 0);
	for (int i = 0; i < NR_UNBINDS; i++) {
		long pinned = nr_pins;

		/* In the middle of it, at a place that moves. */
		EVENTUALLY(nr_pins > pinned + i);
		unbind_device();
		bind_device();
	}
	enough = true;
	for (int i = 0; i < NR_THREADS; i++)
		CHECK(pthread_join(threads[i], NULL) == 0);
	fd = open_device();
	check_balance(fd, before);
}

static void revive(void)
{
	ask_host("fault none");
	unbind_device();
	bind_device();
}

/* The end of a device that was given up: nothing is left of the file, and it works again and does not write here. */
static void start_over(int fd, int64_t before, unsigned char *memory, size_t len)
{
	check_balance(fd, before);
	close(fd);
	revive();
	check_quiet(memory, len);
}

/* Of two files one waits for the device in vain; then both know that it was reset. */
static void silent_at_release(unsigned char *memory, size_t len, int64_t before)
{
	int fd = open_device(), other = open_device(), late;
	unsigned char *others = map_anonymous(len);
	struct longpin_pin region, refused;
	struct longpin_info state;
	struct longpin_wait end;
	struct busy busy;
	double begin;

	CHECK(pin(fd, memory, len, LONGPIN_MODE_LONGTERM, LONGPIN_ACCESS_WRITE, &region) == 0);
	busy = start_busy(other, others, len, LONGPIN_MODE_PIN);
	ask_host("fault silent-control");
	begin = now_s();
	CHECK(release(fd, region.region, LONGPIN_RELEASE_DIRTY) == 0);
	CHECK(now_s() - begin > DEVICE_TIMEOUT_S * 0.75 && now_s() - begin < SOON_S);

	state = info(other);
	CHECK(state.device_alive == 0 && state.pages_pinned == len / PAGE);
	CHECK_ERRNO(wait_for(other, busy.program.program, SOON_MS, &end), ENODEV);
	CHECK_ERRNO(pin(other, memory, len, LONGPIN_MODE_LONGTERM, LONGPIN_ACCESS_WRITE, &refused), ENODEV);
	CHECK_ERRNO(submit(other, &busy.program), ENODEV);
	late = open_device();
	CHECK_ERRNO(pin(late, memory, len, LONGPIN_MODE_LONGTERM, LONGPIN_ACCESS_WRITE, &refused), ENODEV);
	close(late);
	/* Nobody is asked any more, so nobody is waited for. */
	begin = now_s();
	CHECK(release(other, busy.region.region, LONGPIN_RELEASE_CLEAN) == 0);
	CHECK(now_s() - begin < DEVICE_TIMEOUT_S * 0.75);
	CHECK(pins_held() == before && pinned_kib() == 0);
	close(fd);
	close(other);
	revive();
	check_quiet(others, len);
}

static void silent_at_pin(unsigned char *memory, size_t len, int64_t before)
{
	int fd = open_device();
	struct longpin_pin region;

	ask_host("fault silent-control");
	CHECK_ERRNO(pin(fd, memory, len, LONGPIN_MODE_LONGTERM, LONGPIN_ACCESS_WRITE, &region), ETIMEDOUT);
	CHECK(pins_held() == before && pinned_kib() == 0);
	close(fd);
	revive();
}

/* Regions go as ever: only programs are not answered. */
static void silent_about_programs(unsigned char *memory, size_t len, int64_t before)
{
	int fd = open_device();
	struct longpin_submit program;
	struct longpin_pin region;
	struct longpin_wait end;

	ask_host("fault silent-dma");
	CHECK(pin(fd, memory, len, LONGPIN_MODE_LONGTERM, LONGPIN_ACCESS_WRITE, &region) == 0);
	program = fill_program(region.region, 0, len, 9);
	CHECK(submit(fd, &program) == 0);
	CHECK_ERRNO(wait_for(fd, program.program, 500, &end), ETIMEDOUT);
	CHECK(release(fd, region.region, LONGPIN_RELEASE_CLEAN) == 0);
	check_balance(fd, before);
	close(fd);
	ask_host("fault none");
}

/* The exit of the owner waits for the deadline; then the pins are gone. */
static void killed_while_silent(size_t len, int64_t before)
{
	int memfd;
	unsigned char *memory = map_memfd(len, &memfd);
	pid_t owner = fork();

	if (owner == 0) {
		start_busy(open_device(), memory, len, LONGPIN_MODE_LONGTERM);
		for (;;)
			pause();
	}
	EVENTUALLY(memory[len - CELL]);
	ask_host("fault silent-control");
	CHECK(kill(owner, SIGKILL) == 0 && waitpid(owner, NULL, 0) == owner);
	EVENTUALLY(pins_held() == before);
	revive();
	check_quiet(memory, len);
	close(memfd);
}

void test_silent_device(void)
{
	size_t len = 64 * PAGE;
	unsigned char *memory = map_anonymous(len);
	int64_t before = pins_held();

	memset(memory, 1, len);
	silent_at_release(memory, len, before);
	silent_at_pin(memory, len, before);
	silent_about_programs(memory, len, before);
	killed_while_silent(len, before);
}

/*
 * Each answer comes in time, all together do not: the requests of one PIN have one deadline. What takes so many of them
 * would hold its caller, whom no signal ends, for minutes.
 */
void test_slow_device(void)
{
	size_t len = 16384 * PAGE;
	unsigned char *memory = map_scattered(len / PAGE);
	int64_t before = pins_held();
	int fd = open_device();
	struct longpin_pin region;
	uint32_t nr_requests;
	double begin;

	CHECK(pin(fd, memory, len, LONGPIN_MODE_LONGTERM, LONGPIN_ACCESS_WRITE, &region) == 0);
	nr_requests = region.nr_segments / SEGMENTS_PER_REQUEST;
	CHECK(nr_requests >= 4);
	/* One request that is answered late is none too many. */
	ask_host("fault slow-control");
	begin = now_s();
	CHECK(release(fd, region.region, LONGPIN_RELEASE_CLEAN) == 0 && info(fd).device_alive == 1);
	CHECK(now_s() - begin >= SLOW_ANSWER_S);

	/* Had each request a deadline of its own, all would be answered in time. */
	begin = now_s();
	CHECK_ERRNO(pin(fd, memory, len, LONGPIN_MODE_LONGTERM, LONGPIN_ACCESS_WRITE, &region), ETIMEDOUT);
	note("pin with %u requests: given up after %.1f s", nr_requests, now_s() - begin);
	CHECK(info(fd).device_alive == 0);
	start_over(fd, before, memory, len);
}

static void *poll_forever(void *fd)
{
	struct pollfd poll_fd = { .fd = *(int *)fd, .events = POLLIN };

	CHECK(poll(&poll_fd, 1, SOON_MS) == 1);
	CHECK(poll_fd.revents == (POLLERR | POLLHUP));
	return NULL;
}

/* A file without programs hears of the end of its device, also one that polls already. */
static void lying_about_the_ring(unsigned char *memory, size_t len, int64_t before, const char *fault)
{
	int fd = open_device(), other = open_device();
	struct longpin_submit program;
	struct longpin_pin refused;
	struct longpin_wait end;
	struct busy busy = start_busy(fd, memory, len, LONGPIN_MODE_LONGTERM);
	pthread_t poller;

	CHECK(pthread_create(&poller, NULL, poll_forever, &other) == 0);
	ask_host(fault);
	program = fill_program(busy.region.region, 0, CELL, 1);
	CHECK(submit(fd, &program) == 0);
	/* Nobody asks the device for anything: the ring alone gives it away. */
	EVENTUALLY(info(fd).device_alive == 0);
	CHECK(pthread_join(poller, NULL) == 0);
	CHECK_ERRNO(wait_for(fd, busy.program.program, SOON_MS, &end), ENODEV);
	CHECK_ERRNO(submit(fd, &program), ENODEV);
	CHECK_ERRNO(pin(fd, memory, len, LONGPIN_MODE_LONGTERM, LONGPIN_ACCESS_WRITE, &refused), ENODEV);
	CHECK(release(fd, busy.region.region, LONGPIN_RELEASE_CLEAN) == 0);
	close(other);
	start_over(fd, before, memory, len);
}

/* Whatever the device says of a region, its pages come back only when nobody writes into them. */
static void lying_at_release(unsigned char *memory, size_t len, int64_t before, const char *fault)
{
	int fd = open_device();
	struct longpin_pin refused;
	struct busy busy = start_busy(fd, memory, len, LONGPIN_MODE_PIN);

	ask_host(fault);
	CHECK(release(fd, busy.region.region, LONGPIN_RELEASE_DIRTY) == 0);
	CHECK(info(fd).device_alive == 0);
	CHECK_ERRNO(pin(fd, memory, len, LONGPIN_MODE_LONGTERM, LONGPIN_ACCESS_WRITE, &refused), ENODEV);
	start_over(fd, before, memory, len);
}

static void lying_at_pin(unsigned char *memory, size_t len, int64_t before, const char *fault)
{
	int fd = open_device();
	struct longpin_pin region;

	ask_host(fault);
	CHECK_ERRNO(pin(fd, memory, len, LONGPIN_MODE_LONGTERM, LONGPIN_ACCESS_WRITE, &region), EIO);
	CHECK(info(fd).device_alive == 0);
	start_over(fd, before, memory, len);
}

/* Only what is safe without them is taken from such an answer: the program is over, and the device stays. */
static void lying_about_programs(unsigned char *memory, size_t len, int64_t before, const char *fault)
{
	int fd = open_device();
	struct longpin_submit program;
	struct longpin_pin region;
	struct longpin_wait end;

	CHECK(pin(fd, memory, len, LONGPIN_MODE_LONGTERM, LONGPIN_ACCESS_WRITE, &region) == 0);
	ask_host(fault);
	program = fill_program(region.region, 0, len, 9);
	CHECK(submit(fd, &program) == 0);
	CHECK_ERRNO(wait_for(fd, program.program, SOON_MS, &end), EIO);
	CHECK_ERRNO(wait_for(fd, program.program, 0, &end), ENOENT);
	ask_host("fault none");
	CHECK(release(fd, region.region, LONGPIN_RELEASE_CLEAN) == 0 && info(fd).device_alive == 1);
	check_balance(fd, before);
	close(fd);
}

void test_lying_device(void)
{
	static const char *const answers[] = { "fault wrong-tag", "fault short-answer" };
	size_t len = 64 * PAGE;
	unsigned char *memory = map_anonymous(len);
	int64_t before = pins_held();

	memset(memory, 1, len);
	for (size_t i = 0; i < sizeof(answers) / sizeof(*answers); i++) {
		lying_at_pin(memory, len, before, answers[i]);
		lying_at_release(memory, len, before, answers[i]);
		lying_about_programs(memory, len, before, answers[i]);
	}
	lying_at_release(memory, len, before, "fault denied-region");
	lying_about_the_ring(memory, len, before, "fault bad-used-id");
	lying_about_the_ring(memory, len, before, "fault answer-twice");
	/* Interrupts out of turn change nothing. */
	ask_host("fault stray-interrupt");
	check_quiet(memory, len);
	ask_host("fault none");
}

/*
 * A device that no longer decodes addresses and is no bus master, as one that was pulled out: neither its answer nor a
 * reset comes through. The release waits for its answer in vain. QEMU gives zeroes for reads of what is not there, so the
 * device looks reset and has all its state when it is back; hardware gives ones, for which this is no test.
 */
void test_pulled_out(void)
{
	size_t len = 64 * PAGE;
	unsigned char *memory = map_anonymous(len);
	int64_t before = pins_held();
	int fd = open_device();
	struct busy busy = start_busy(fd, memory, len, LONGPIN_MODE_LONGTERM);
	uint16_t command = swap_pci_command(0);

	CHECK(release(fd, busy.region.region, LONGPIN_RELEASE_DIRTY) == 0);
	CHECK(info(fd).device_alive == 0);
	check_balance(fd, before);
	close(fd);
	/* It is back in its place: the driver resets it before it goes. */
	swap_pci_command(command);
	unbind_device();
	bind_device();
	check_quiet(memory, len);
}

/*
 * The node goes last: where it is gone, the pages are back. So many pages that giving them back takes time, no sleep
 * between two looks at the node, and the charge first, which is given back after the pages.
 */
void test_hot_removal(void)
{
	size_t len = 16384 * PAGE;
	unsigned char *memory = map_anonymous(len);
	int64_t before = pins_held();
	int fd = open_device();
	struct busy busy = start_busy(fd, memory, len, LONGPIN_MODE_LONGTERM);
	double begin;

	ask_host("unplug");
	begin = now_s();
	while (access(DEVICE, F_OK) == 0)
		CHECK(now_s() - begin < SOON_S);
	CHECK(pinned_kib() == 0);
	CHECK(pins_held() == before);
	check_orphaned(fd, &busy, memory);
	close(fd);
}

void test_dead_daemon(void)
{
	size_t len = 64 * PAGE;
	unsigned char *memory = map_anonymous(len);
	int64_t before = pins_held();
	int fd = open_device();
	struct busy busy = start_busy(fd, memory, len, LONGPIN_MODE_LONGTERM);
	struct longpin_pin region;
	struct longpin_wait end;
	double begin;

	ask_host("kill");
	begin = now_s();
	CHECK(release(fd, busy.region.region, LONGPIN_RELEASE_DIRTY) == 0);
	note("release after the daemon died: %.2f s", now_s() - begin);
	CHECK(pins_held() == before && pinned_kib() == 0);
	CHECK_ERRNO(pin(fd, memory, len, LONGPIN_MODE_LONGTERM, LONGPIN_ACCESS_WRITE, &region), ENODEV);
	CHECK_ERRNO(wait_for(fd, busy.program.program, SOON_MS, &end), ENODEV);
}
