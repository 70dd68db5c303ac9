/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * What the tests of /dev/longpin0 share. Each test runs in a process of its own and ends it at the first check that
 * does not hold, so a test needs no error paths and leaves nothing to the next.
 */
#ifndef DRIVER_TEST_H
#define DRIVER_TEST_H

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "longpin_uapi.h"

#define DEVICE "/dev/longpin0"
#define PAGE 4096UL
#define CELL 512

/* Fields of the ioctls that take a number of wire/src/dma.rs. */
#define PAYLOAD_FILL 1
#define DIRECTION_READ 1
#define STATUS_OK 0
#define STATUS_STOPPED 5
#define STATUS_LIMIT 6

/*
 * Rate of programs that write until something else ends them. The ledger has an entry for each run of cells, and on a
 * busy machine "until" is minutes: at full speed a host whose disk is slow stalls behind gigabytes of ledger, everything
 * waits for room in it, and there are more of them. This is 50 MB/s, a pass of 256 pages in 20 ms.
 */
#define BUSY_CELLS_PER_S 100000
/* How long a busy emulated machine may take for what takes moments. */
#define SOON_S 60
#define SOON_MS (SOON_S * 1000)

/* harness: ends the process with "FILE:LINE: ..." as the reason of "not ok". */
_Noreturn void fail_at(const char *file, int line, const char *format, ...) __attribute__((format(printf, 3, 4)));
/* Ends the process as skipped. */
_Noreturn void skip(const char *reason);
/* A line for people. */
void note(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* Have the host do something to the device, and wait until it has. */
void ask_host(const char *what);
double now_s(void);

#define CHECK(condition)                                                                             \
	do {                                                                                         \
		if (!(condition))                                                                    \
			fail_at(__FILE__, __LINE__, "%s (errno %s)", #condition, strerrorname_np(errno)); \
	} while (0)

/* The call must fail with this errno. */
#define CHECK_ERRNO(call, expected)                                                                  \
	do {                                                                                         \
		errno = 0;                                                                           \
		long result_ = (call);                                                               \
		if (result_ != -1 || errno != (expected))                                            \
			fail_at(__FILE__, __LINE__, "%s gave %ld (errno %s), not %s", #call, result_, \
				strerrorname_np(errno), strerrorname_np(expected));                  \
	} while (0)

/* How long all rounds of a storm together may take, on a kernel that watches itself, translated. */
#define STORM_S 3000

/* The condition must come true before the deadline. */
#define EVENTUALLY(condition)                                                                        \
	do {                                                                                         \
		double end_ = now_s() + SOON_S;                                                      \
		while (!(condition)) {                                                               \
			if (now_s() > end_)                                                          \
				fail_at(__FILE__, __LINE__, "%d s passed without %s", SOON_S, #condition); \
			usleep(1000);                                                                \
		}                                                                                    \
	} while (0)

/* memory */
void *map_anonymous(size_t len);
/* A shared mapping of a memfd, which *memfd gets. */
unsigned char *map_memfd(size_t len, int *memfd);
/* Shared memory of pages of which no two that follow each other lie so in the file; a power of two of them. */
unsigned char *map_scattered(size_t pages);
bool all_bytes(const void *memory, size_t len, int byte);

/* The driver's view. */
int open_device(void);
int pin(int fd, const void *memory, size_t len, unsigned int mode, unsigned int access, struct longpin_pin *out);
int release(int fd, uint32_t region, uint32_t how);
int submit(int fd, struct longpin_submit *program);
int wait_for(int fd, uint64_t program, uint32_t timeout_ms, struct longpin_wait *end);
int query(int fd, uint32_t region, uint32_t page_index, struct longpin_query *out);
struct longpin_info info(int fd);
/* One pass that writes this byte. */
struct longpin_submit fill_program(uint32_t region, uint64_t offset, uint64_t len, int byte);
/* Stamps from the region's start, over and over until it is stopped. A rate of 0 is full speed: for few passes only. */
struct longpin_submit endless_program(uint32_t region, uint64_t len, uint64_t rate_cells_per_s);
/* Have the device fill a range, and wait for it. */
void dma_fill(int fd, uint32_t region, uint64_t offset, uint64_t len, int byte);

/* The kernel's view. */
uint64_t vmstat(const char *name);
/* Pins of FOLL_PIN that are held in the whole machine. */
int64_t pins_held(void);
/* VmPin of this process or another, KiB. */
uint64_t pinned_kib(void);
uint64_t pinned_kib_of(pid_t pid);
void write_file(const char *path, const char *text);

/* The virtio device. */
void unbind_device(void);
void bind_device(void);
/* Sets the command register of its PCI function and returns what was there. */
uint16_t swap_pci_command(uint16_t command);

/* Nothing of a test may be left: pins as before, none of the process, none of the file. */
void check_balance(int fd, int64_t before);

/*
 * Nobody writes into these pages any more. Proven by a device that goes on: after the pages were set to a pattern, it
 * fills as many others through another file, in which time a program that was still running would have been seen.
 */
void check_quiet(unsigned char *memory, size_t len);

/* tests */
void test_info(void);
void test_anonymous(void);
void test_shmem(void);
void test_file(void);
void test_huge_pages(void);
void test_folio_without_mapping(void);
void test_scattered(void);
void test_gigabyte(void);
void test_errors(void);
void test_fuzz(void);
void test_program(void);
void test_many_programs(void);
void test_ten_thousand_pins(void);
void test_memlock_limit(void);
void test_capability(void);
void test_compat(void);
void test_failing_allocations(void);
void test_killed_owner(void);
void test_racing_threads(void);
void test_passed_descriptor(void);
void test_unresolved_fault(void);
void test_unbind(void);
void test_racing_unbind(void);
void test_silent_device(void);
void test_slow_device(void);
void test_lying_device(void);
void test_pulled_out(void);
void test_hot_removal(void);
void test_dead_daemon(void);
void test_mirror(void);
void test_mirror_read(void);
void test_mirror_changes(void);
void test_mirror_file(void);
void test_mirror_madv_free(void);
void test_mirror_killed(void);
void test_mirror_unbind(void);
void test_mirror_silent(void);
void test_mirror_storm(void);
void test_mirror_cost(void);
void test_kill_storm(void);
void test_unbind_storm(void);
void test_module_storm(void);
void test_plug_storm(void);

#endif
