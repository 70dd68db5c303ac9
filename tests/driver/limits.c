// SPDX-License-Identifier: Apache-2.0 OR MIT
/* Accounting: what is taken is given back, at every limit and wherever an allocation fails. */
#define _GNU_SOURCE
#include "compat.h"
#include "driver_test.h"

#include <fcntl.h>
#include <linux/capability.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>

void test_ten_thousand_pins(void)
{
	const int nr_pins = 10000, nr_get = nr_pins / 3;
	size_t pages = 16;
	void *memory = map_anonymous(pages * PAGE);
	int64_t before = pins_held();
	uint64_t acquired = vmstat("nr_foll_pin_acquired");
	int fd = open_device();
	struct longpin_pin region;
	double begin = now_s();

	for (int i = 0; i < nr_pins; i++) {
		CHECK(pin(fd, memory, pages * PAGE, 1 + i % 3, LONGPIN_ACCESS_WRITE, &region) == 0);
		CHECK(release(fd, region.region, i & 1) == 0);
	}
	note("%d pins of %zu pages: %.1f us each", nr_pins, pages, (now_s() - begin) / nr_pins * 1e6);
	/* Every third is FOLL_GET, which is not counted. */
	CHECK(vmstat("nr_foll_pin_acquired") - acquired == (uint64_t)(nr_pins - nr_get) * pages);
	check_balance(fd, before);
}

static void set_memlock(rlim_t bytes)
{
	const struct rlimit limit = { .rlim_cur = bytes, .rlim_max = bytes };

	CHECK(setrlimit(RLIMIT_MEMLOCK, &limit) == 0);
}

static void drop_capability(int capability)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[2];

	CHECK(syscall(SYS_capget, &header, data) == 0);
	data[0].effective &= ~(1U << capability);
	CHECK(syscall(SYS_capset, &header, data) == 0);
}

void test_memlock_limit(void)
{
	void *memory = map_anonymous(64 * PAGE);
	struct longpin_pin region, second;
	int64_t before = pins_held();
	int fd = open_device();

	/* CAP_IPC_LOCK knows no limit. */
	set_memlock(16 * PAGE);
	CHECK(pin(fd, memory, 64 * PAGE, LONGPIN_MODE_LONGTERM, LONGPIN_ACCESS_WRITE, &region) == 0);
	CHECK(release(fd, region.region, LONGPIN_RELEASE_CLEAN) == 0);

	drop_capability(CAP_IPC_LOCK);
	for (unsigned int mode = LONGPIN_MODE_LONGTERM; mode <= LONGPIN_MODE_GET; mode++) {
		CHECK_ERRNO(pin(fd, memory, 17 * PAGE, mode, LONGPIN_ACCESS_WRITE, &region), ENOMEM);
		CHECK(pin(fd, memory, 16 * PAGE, mode, LONGPIN_ACCESS_WRITE, &region) == 0);
		CHECK_ERRNO(pin(fd, memory, PAGE, mode, LONGPIN_ACCESS_WRITE, &second), ENOMEM);
		CHECK(pinned_kib() == 16 * PAGE / 1024);
		CHECK(release(fd, region.region, LONGPIN_RELEASE_CLEAN) == 0);
		check_balance(fd, before);
	}
	set_memlock(0);
	CHECK_ERRNO(pin(fd, memory, PAGE, LONGPIN_MODE_LONGTERM, LONGPIN_ACCESS_WRITE, &region), EPERM);
	check_balance(fd, before);
}

/* Root alone is not enough; a file that is open stays so. */
void test_capability(void)
{
	void *memory = map_anonymous(PAGE);
	struct longpin_pin region;
	int fd = open_device();

	drop_capability(CAP_SYS_RAWIO);
	CHECK_ERRNO(open(DEVICE, O_RDWR | O_CLOEXEC), EPERM);
	CHECK_ERRNO(open(DEVICE, O_RDONLY | O_CLOEXEC), EPERM);
	CHECK(pin(fd, memory, PAGE, LONGPIN_MODE_LONGTERM, LONGPIN_ACCESS_WRITE, &region) == 0);
	CHECK(release(fd, region.region, LONGPIN_RELEASE_CLEAN) == 0);
}

/* A 32-bit program has the same structures, and is told the same. */
void test_compat(void)
{
	struct compat_told told;
	struct longpin_info state;
	int64_t before = pins_held();
	int fd = open_device(), pipe_fd[2], status;
	pid_t child;

	CHECK(pipe(pipe_fd) == 0);
	child = fork();
	if (child == 0) {
		char *const argv[] = { COMPAT_PROGRAM, NULL };

		dup2(pipe_fd[1], STDOUT_FILENO);
		execv(COMPAT_PROGRAM, argv);
		_exit(1);
	}
	CHECK(waitpid(child, &status, 0) == child);
	if (!WIFEXITED(status) || WEXITSTATUS(status))
		fail_at(__FILE__, __LINE__, "the 32-bit program ended with status %#x", status);
	CHECK(read(pipe_fd[0], &told, sizeof(told)) == sizeof(told));

	state = info(fd);
	CHECK(told.info.version == state.version && told.info.device_alive == 1);
	CHECK(told.info.max_region_bytes == state.max_region_bytes);
	CHECK(told.info.nr_regions == 1 && told.info.nr_programs == 0 && told.info.pages_pinned == 1);
	CHECK(told.pin.region && told.pin.nr_pages == 1 && told.pin.nr_segments == 1);
	CHECK(told.pin.file_offset == COMPAT_FILE_OFFSET);
	CHECK(told.query.mode == LONGPIN_MODE_LONGTERM && told.query.access == LONGPIN_ACCESS_WRITE);
	CHECK(told.query.length == PAGE && told.query.nr_pages == 1 && told.query.nr_segments == 1);
	CHECK(told.query.page_dma_addr % PAGE == 0 && told.query.folio_pages >= 1);
	check_balance(fd, before);
}

/*
 * Fault injection: the n-th allocation of a call fails, for every n, until a call comes through with allocations left
 * to fail (Documentation/fault-injection/fault-injection.rst, "fail-nth").
 */
static int fail_nth = -1;

static void fail_allocation(int n)
{
	char text[16];
	int len = snprintf(text, sizeof(text), "%d", n);

	CHECK(pwrite(fail_nth, text, len, 0) == len);
}

/* Ends the injection. Was there nothing left to fail? */
static bool came_through(void)
{
	char text[16] = "";

	CHECK(pread(fail_nth, text, sizeof(text) - 1, 0) > 0);
	fail_allocation(0);
	return atoi(text) != 0;
}

static void prepare_injection(void)
{
	fail_nth = open("/proc/thread-self/fail-nth", O_RDWR | O_CLOEXEC);
	if (fail_nth < 0)
		skip("this kernel has no /proc/thread-self/fail-nth (CONFIG_FAULT_INJECTION)");
	write_file("/sys/kernel/debug/failslab/ignore-gfp-wait", "N");
	write_file("/sys/kernel/debug/failslab/verbose", "0");
	write_file("/sys/kernel/debug/fail_page_alloc/ignore-gfp-wait", "N");
	write_file("/sys/kernel/debug/fail_page_alloc/min-order", "0");
	write_file("/sys/kernel/debug/fail_page_alloc/verbose", "0");
}

static void failing_opens(void)
{
	bool through = false;

	for (int n = 1; !through; n++) {
		int fd, error;

		CHECK(n < 500);
		fail_allocation(n);
		fd = open(DEVICE, O_RDWR | O_CLOEXEC);
		error = errno;
		through = came_through();
		CHECK(fd >= 0 || error == ENOMEM || error == ENFILE);
		if (fd >= 0)
			close(fd);
	}
}

static void failing_pins(int fd, unsigned int mode, int64_t before)
{
	size_t len = 700 * PAGE;
	unsigned char *memory = map_anonymous(len);
	bool through = false;

	CHECK(madvise(memory, len, MADV_NOHUGEPAGE) == 0);
	memset(memory, 1, len);
	for (int n = 1; !through; n++) {
		struct longpin_pin region;
		int result, error;

		CHECK(n < 6000);
		fail_allocation(n);
		result = pin(fd, memory, len, mode, LONGPIN_ACCESS_WRITE, &region);
		error = errno;
		through = came_through();
		if (result == 0) {
			/* Nothing that fails may keep pages from going back. */
			fail_allocation(1 + n % 3);
			result = release(fd, region.region, n & 1);
			came_through();
			CHECK(result == 0);
		} else {
			CHECK(error == ENOMEM || error == EFAULT);
		}
		check_balance(fd, before);
	}
	munmap(memory, len);
}

static void failing_programs(int fd, int64_t before)
{
	void *memory = map_anonymous(PAGE);
	struct longpin_submit program;
	struct longpin_pin region;
	struct longpin_wait end;
	bool through = false;

	CHECK(pin(fd, memory, PAGE, LONGPIN_MODE_LONGTERM, LONGPIN_ACCESS_WRITE, &region) == 0);
	for (int n = 1; !through; n++) {
		int result, error;

		CHECK(n < 200);
		program = fill_program(region.region, 0, PAGE, 1);
		fail_allocation(n);
		result = submit(fd, &program);
		error = errno;
		through = came_through();
		if (result == 0) {
			fail_allocation(1);
			result = wait_for(fd, program.program, SOON_MS, &end);
			came_through();
			CHECK(result == 0 && end.status == STATUS_OK);
		} else {
			CHECK(error == ENOMEM);
		}
	}
	CHECK(info(fd).nr_programs == 0 && info(fd).nr_regions == 1);
	CHECK(release(fd, region.region, LONGPIN_RELEASE_CLEAN) == 0);
	check_balance(fd, before);
}

void test_failing_allocations(void)
{
	int64_t before;
	int fd;

	prepare_injection();
	before = pins_held();
	failing_opens();
	fd = open_device();
	for (unsigned int mode = LONGPIN_MODE_LONGTERM; mode <= LONGPIN_MODE_GET; mode++)
		failing_pins(fd, mode, before);
	failing_programs(fd, before);
}
