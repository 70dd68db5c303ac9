// SPDX-License-Identifier: Apache-2.0 OR MIT
/*
 * Memory that the device uses without a pin: it faults for pages, and gives back what the kernel takes. That no page is
 * written to after it was given back is read from the ledger.
 */
#define _GNU_SOURCE
#include "driver_test.h"

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>

/* wire/src/dma.rs */
#define STATUS_FAULT 8

#define LEN (16 * PAGE)
#define NR_PAGES (LEN / PAGE)
/* Of the module, for the test of a silent device; and how much later than that a busy machine may notice. */
#define INVALIDATE_TIMEOUT_S 2

static const char *const file_path = "/mnt/driver-test-mirror";

static uint32_t mirror(int fd, void *memory, size_t len, unsigned int access)
{
	struct longpin_pin region;

	CHECK(pin(fd, memory, len, LONGPIN_MODE_NOTIFIER, access, &region) == 0);
	CHECK(region.region && region.nr_pages == len / PAGE);
	return region.region;
}

static struct longpin_mirror counts(int fd, uint32_t region)
{
	struct longpin_mirror answer = { .region = region };

	CHECK(ioctl(fd, LONGPIN_IOC_MIRROR, &answer) == 0);
	return answer;
}

/* Has the device fill a range, of which a page is refused. */
static void dma_is_refused(int fd, uint32_t region, uint64_t offset, uint64_t len, unsigned int expected)
{
	struct longpin_submit program = fill_program(region, offset, len, 0x99);
	struct longpin_wait end;

	CHECK(submit(fd, &program) == 0);
	CHECK(wait_for(fd, program.program, SOON_MS, &end) == 0);
	if (end.status != STATUS_FAULT || end.crc32c != expected)
		fail_at(__FILE__, __LINE__, "status %u, errno %s, not %s", end.status, strerrorname_np(end.crc32c),
			strerrorname_np(expected));
}

/* A file of LEN bytes on the disk, all 0x11 and written back; shared memory of it. */
static unsigned char *map_file(int *file)
{
	unsigned char page[PAGE], *memory;

	*file = open(file_path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	CHECK(*file >= 0);
	memset(page, 0x11, PAGE);
	for (size_t at = 0; at < LEN; at += PAGE)
		CHECK(pwrite(*file, page, PAGE, at) == PAGE);
	CHECK(fsync(*file) == 0);
	memory = mmap(NULL, LEN, PROT_READ | PROT_WRITE, MAP_SHARED, *file, 0);
	CHECK(memory != MAP_FAILED);
	return memory;
}

static void round_trip(unsigned char *memory)
{
	int fd = open_device();
	int64_t before = pins_held();
	uint32_t region = mirror(fd, memory, LEN, LONGPIN_ACCESS_WRITE);
	struct longpin_mirror seen = counts(fd, region);
	struct longpin_query state;

	CHECK(seen.pages == 0 && seen.faults == 0 && seen.invalidations == 0 && seen.refused == 0);
	CHECK(query(fd, region, 0, &state) == 0);
	CHECK(state.mode == LONGPIN_MODE_NOTIFIER && state.nr_segments == 0 && state.page_dma_addr == 0);
	dma_fill(fd, region, 0, LEN, 0xab);
	CHECK(all_bytes(memory, LEN, 0xab));
	seen = counts(fd, region);
	CHECK(seen.pages == NR_PAGES && seen.faults >= NR_PAGES && seen.refused == 0);
	CHECK(query(fd, region, NR_PAGES - 1, &state) == 0);
	CHECK(state.nr_segments == NR_PAGES && state.page_dma_addr && state.page_flags && state.page_has_mapping);
	/* Known pages are used without a fault, and off the page borders as well. */
	dma_fill(fd, region, 100, PAGE, 0xcd);
	CHECK(memory[99] == 0xab && all_bytes(memory + 100, PAGE, 0xcd) && memory[100 + PAGE] == 0xab);
	CHECK(counts(fd, region).faults == seen.faults);

	/* Nobody holds anything. */
	CHECK(pins_held() == before && pinned_kib() == 0 && info(fd).pages_pinned == 0);
	CHECK(release(fd, region, LONGPIN_RELEASE_DIRTY) == 0);
	CHECK_ERRNO(release(fd, region, LONGPIN_RELEASE_CLEAN), ENOENT);
	check_balance(fd, before);
	close(fd);
}

void test_mirror(void)
{
	int fd = open_device(), memfd, file;
	struct longpin_mirror argument = { 0 };
	struct longpin_pin region;
	unsigned char *memory = map_anonymous(LEN);

	round_trip(memory);
	round_trip(map_memfd(LEN, &memfd));
	round_trip(map_file(&file));

	CHECK_ERRNO(ioctl(fd, LONGPIN_IOC_MIRROR, &argument), ENOENT);
	argument.reserved = 1;
	CHECK_ERRNO(ioctl(fd, LONGPIN_IOC_MIRROR, &argument), EINVAL);
	CHECK(pin(fd, memory, PAGE, LONGPIN_MODE_PIN, LONGPIN_ACCESS_WRITE, &region) == 0);
	argument = (struct longpin_mirror){ .region = region.region };
	CHECK_ERRNO(ioctl(fd, LONGPIN_IOC_MIRROR, &argument), EINVAL);
	/* Memory need not be there before somebody comes to it, unless it is to be read at once. */
	munmap(memory, PAGE);
	dma_is_refused(fd, mirror(fd, memory, LEN, LONGPIN_ACCESS_WRITE), 0, PAGE, EFAULT);
	CHECK_ERRNO(pin(fd, memory, LEN, LONGPIN_MODE_NOTIFIER, LONGPIN_ACCESS_READ, &region), EFAULT);
	CHECK(info(fd).nr_regions == 2);
}

void test_mirror_read(void)
{
	int fd = open_device(), file;
	unsigned char *memory = map_file(&file), *untouched = map_anonymous(LEN);
	uint32_t region = mirror(fd, memory, LEN, LONGPIN_ACCESS_READ);
	struct longpin_submit program = fill_program(region, 0, LEN, 0);
	struct longpin_mirror seen = counts(fd, region);
	struct longpin_wait end;

	CHECK(seen.pages == NR_PAGES && seen.faults == 0);
	program.direction = DIRECTION_READ;
	CHECK(submit(fd, &program) == 0 && wait_for(fd, program.program, SOON_MS, &end) == 0);
	CHECK(end.status == STATUS_OK && end.cells_done == LEN / CELL);
	CHECK(counts(fd, region).faults == 0);
	/* A write asks for itself: the file system hears of each page. */
	dma_fill(fd, region, 0, LEN, 0x22);
	CHECK(all_bytes(memory, LEN, 0x22) && counts(fd, region).faults >= NR_PAGES);

	/* The zero page of untouched memory is read, and left for a page of one's own. */
	region = mirror(fd, untouched, LEN, LONGPIN_ACCESS_READ);
	CHECK(counts(fd, region).pages == NR_PAGES);
	dma_fill(fd, region, 0, PAGE, 0x33);
	CHECK(all_bytes(untouched, PAGE, 0x33) && all_bytes(untouched + PAGE, LEN - PAGE, 0));

	/* A mapping that may not be written is read, too, and not written by the device either. */
	memory = mmap(NULL, LEN, PROT_READ, MAP_SHARED, file, 0);
	CHECK(memory != MAP_FAILED);
	region = mirror(fd, memory, LEN, LONGPIN_ACCESS_READ);
	dma_is_refused(fd, region, 0, PAGE, EPERM);
	CHECK(all_bytes(memory, LEN, 0x22));
}

/* What the kernel does to memory under the device's eyes. */
void test_mirror_changes(void)
{
	int fd = open_device();
	unsigned char *memory = map_anonymous(LEN), *moved;
	uint32_t region = mirror(fd, memory, LEN, LONGPIN_ACCESS_WRITE);
	struct longpin_mirror seen;
	pid_t child;

	dma_fill(fd, region, 0, LEN, 1);
	CHECK(mprotect(memory, LEN, PROT_READ) == 0);
	CHECK(counts(fd, region).pages == 0 && counts(fd, region).invalidations == 1);
	dma_is_refused(fd, region, 0, PAGE, EPERM);
	CHECK(all_bytes(memory, LEN, 1));
	CHECK(mprotect(memory, LEN, PROT_READ | PROT_WRITE) == 0);
	dma_fill(fd, region, 0, LEN, 2);
	CHECK(all_bytes(memory, LEN, 2));

	/* The page goes, and another comes. */
	CHECK(madvise(memory, PAGE, MADV_DONTNEED) == 0);
	CHECK(counts(fd, region).pages == NR_PAGES - 1);
	dma_fill(fd, region, PAGE / 2, PAGE / 2, 3);
	CHECK(all_bytes(memory, PAGE / 2, 0) && all_bytes(memory + PAGE / 2, PAGE / 2, 3));

	/* What the device writes after a fork is the parent's, whoever copies. */
	dma_fill(fd, region, 0, LEN, 4);
	child = fork();
	if (child == 0) {
		raise(SIGSTOP);
		_exit(all_bytes(memory, LEN, 4) ? 0 : 1);
	}
	CHECK(waitpid(child, NULL, WUNTRACED) == child);
	CHECK(counts(fd, region).pages == 0);
	dma_fill(fd, region, 0, LEN, 5);
	CHECK(all_bytes(memory, LEN, 5));
	CHECK(kill(child, SIGCONT) == 0);
	int status;
	CHECK(waitpid(child, &status, 0) == child && status == 0);

	/* A mapping that moved is not followed: the region is a range of addresses. */
	moved = mremap(memory, LEN, LEN, MREMAP_MAYMOVE | MREMAP_FIXED, map_anonymous(LEN));
	CHECK(moved != MAP_FAILED && moved != memory);
	CHECK(counts(fd, region).pages == 0);
	dma_is_refused(fd, region, 0, PAGE, EFAULT);
	CHECK(all_bytes(moved, LEN, 5));
	CHECK(mmap(memory, LEN, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == memory);
	dma_fill(fd, region, 0, LEN, 6);
	CHECK(all_bytes(memory, LEN, 6));
	CHECK(munmap(memory + LEN / 2, LEN / 2) == 0);
	seen = counts(fd, region);
	CHECK(seen.pages == NR_PAGES / 2 && seen.longest_invalidation_ns > 0);
	dma_fill(fd, region, 0, LEN / 2, 7);
	dma_is_refused(fd, region, LEN / 2, PAGE, EFAULT);
}

static void drop_caches(void)
{
	write_file("/proc/sys/vm/drop_caches", "1");
}

void test_mirror_file(void)
{
	int fd = open_device(), file;
	unsigned char page[PAGE], *memory = map_file(&file);
	uint32_t region = mirror(fd, memory, LEN, LONGPIN_ACCESS_WRITE);

	/* Written back, it is the kernel's; the next write makes it dirty as a store would. */
	for (int round = 1; round <= 3; round++) {
		dma_fill(fd, region, 0, LEN, round);
		CHECK(fsync(file) == 0);
		CHECK(counts(fd, region).pages == 0);
	}
	dma_fill(fd, region, PAGE, PAGE, 0x44);
	CHECK(sync_file_range(file, 0, LEN, SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER) == 0);
	CHECK(munmap(memory, LEN) == 0);
	CHECK(fsync(file) == 0);
	drop_caches();
	for (size_t at = 0; at < LEN; at += PAGE) {
		CHECK(pread(file, page, PAGE, at) == PAGE);
		CHECK(all_bytes(page, PAGE, at == PAGE ? 0x44 : 3));
	}
	CHECK(release(fd, region, LONGPIN_RELEASE_CLEAN) == 0);

	/* Beyond the end of the file there is nothing to write to. */
	memory = map_file(&file);
	region = mirror(fd, memory, LEN, LONGPIN_ACCESS_WRITE);
	dma_fill(fd, region, 0, LEN, 8);
	CHECK(ftruncate(file, PAGE) == 0);
	CHECK(counts(fd, region).pages <= 1);
	dma_is_refused(fd, region, PAGE, PAGE, EFAULT);
	dma_fill(fd, region, 0, PAGE, 9);
	CHECK(ftruncate(file, LEN) == 0);
	dma_fill(fd, region, PAGE, PAGE / 2, 10);
	CHECK(all_bytes(memory + PAGE, PAGE / 2, 10) && all_bytes(memory + PAGE + PAGE / 2, PAGE / 2, 0));
	CHECK(unlink(file_path) == 0);
}

/*
 * Memory that was given up with MADV_FREE and then written to is kept: a CPU's store sets the dirty bit of the page table,
 * by which reclaim knows. The device's sets none, so the driver has to say it. Half of the memory is not written to again:
 * that it goes shows that the kernel does take such pages.
 */
void test_mirror_madv_free(void)
{
	int fd = open_device();
	unsigned char *memory = map_anonymous(LEN), *given_up = memory, *kept = memory + LEN / 2;
	uint32_t region = mirror(fd, memory, LEN, LONGPIN_ACCESS_WRITE);
	cpu_set_t one;

	/* Both calls drain the lists of pages of their own CPU only. */
	CPU_ZERO(&one);
	CPU_SET(0, &one);
	CHECK(sched_setaffinity(0, sizeof(one), &one) == 0);
	memset(memory, 0x11, LEN);
	dma_fill(fd, region, 0, LEN, 0x22);
	CHECK(madvise(memory, LEN, MADV_FREE) == 0);
	CHECK(counts(fd, region).pages == 0);
	dma_fill(fd, region, LEN / 2, LEN / 2, 0x33);
	EVENTUALLY(madvise(memory, LEN, MADV_PAGEOUT) == 0 && all_bytes(given_up, LEN / 2, 0));
	CHECK(all_bytes(kept, LEN / 2, 0x33));
	CHECK(release(fd, region, LONGPIN_RELEASE_CLEAN) == 0);
	close(fd);
}

static struct longpin_submit start_writing(int fd, uint32_t region)
{
	struct longpin_submit program = endless_program(region, LEN, BUSY_CELLS_PER_S);

	program.order = 1;
	program.seed = region;
	CHECK(submit(fd, &program) == 0);
	return program;
}

/* Owners that go while the device writes, or waits for a page that nobody brings. */
void test_mirror_killed(void)
{
	struct uffdio_register range = { .mode = UFFDIO_REGISTER_MODE_MISSING };
	struct uffdio_api api = { .api = UFFD_API };
	int64_t before = pins_held();
	int fd = open_device(), memfd;
	unsigned char *memory = map_memfd(LEN, &memfd);

	for (int round = 0; round < 20; round++) {
		pid_t owner;

		memset(memory, 0, LEN);
		owner = fork();
		if (owner == 0) {
			int own = open_device();

			start_writing(own, mirror(own, memory, LEN, round & 1));
			for (;;)
				pause();
		}
		EVENTUALLY(!all_bytes(memory, LEN, 0));
		CHECK(kill(owner, SIGKILL) == 0 && waitpid(owner, NULL, 0) == owner);
		check_balance(fd, before);
		check_quiet(memory, LEN);
	}
	for (int round = 0; round < 5; round++) {
		pid_t owner = fork();

		if (owner == 0) {
			int own = open_device(), uffd = syscall(SYS_userfaultfd, O_CLOEXEC);
			void *missing = map_anonymous(LEN);
			struct longpin_submit program;
			struct uffd_msg fault;

			CHECK(uffd >= 0 && ioctl(uffd, UFFDIO_API, &api) == 0);
			range.range = (struct uffdio_range){ .start = (uintptr_t)missing, .len = LEN };
			CHECK(ioctl(uffd, UFFDIO_REGISTER, &range) == 0);
			program = start_writing(own, mirror(own, missing, LEN, LONGPIN_ACCESS_WRITE));
			CHECK(read(uffd, &fault, sizeof(fault)) == sizeof(fault));
			CHECK(fault.event == UFFD_EVENT_PAGEFAULT);
			if (round & 1) {
				/* A program that waits for its page is stopped as any other. */
				struct longpin_stop stop = { .program = program.program };
				struct longpin_wait end;

				CHECK(ioctl(own, LONGPIN_IOC_STOP, &stop) == 0);
				CHECK(wait_for(own, program.program, SOON_MS, &end) == 0);
				CHECK(end.status == STATUS_STOPPED && end.cells_done == 0);
			}
			raise(SIGKILL);
		}
		CHECK(waitpid(owner, NULL, 0) == owner);
		check_balance(fd, before);
	}
}

void test_mirror_unbind(void)
{
	int memfd;
	unsigned char *memory = map_memfd(LEN, &memfd);

	for (int round = 0; round < 5; round++) {
		int fd = open_device();
		struct longpin_submit program;
		struct longpin_pin region;
		struct longpin_wait end;

		memset(memory, 0, LEN);
		program = start_writing(fd, mirror(fd, memory, LEN, LONGPIN_ACCESS_WRITE));
		EVENTUALLY(!all_bytes(memory, LEN, 0));
		unbind_device();
		CHECK_ERRNO(wait_for(fd, program.program, SOON_MS, &end), ENODEV);
		CHECK_ERRNO(pin(fd, memory, LEN, LONGPIN_MODE_NOTIFIER, LONGPIN_ACCESS_WRITE, &region), ENODEV);
		/* Nobody is asked who is not there. */
		CHECK(mprotect(memory, LEN, PROT_READ) == 0 && mprotect(memory, LEN, PROT_READ | PROT_WRITE) == 0);
		bind_device();
		check_quiet(memory, LEN);
		close(fd);
	}
}

/* A device that does not give a page back is reset, and the kernel goes on. */
void test_mirror_silent(void)
{
	int fd = open_device(), memfd;
	unsigned char *memory = map_memfd(LEN, &memfd);
	struct longpin_submit program;
	struct longpin_wait end;
	double start;

	memset(memory, 0, LEN);
	program = start_writing(fd, mirror(fd, memory, LEN, LONGPIN_ACCESS_WRITE));
	EVENTUALLY(!all_bytes(memory, LEN, 0));
	ask_host("fault silent-control");
	start = now_s();
	CHECK(mprotect(memory, PAGE, PROT_READ) == 0);
	/* Not sooner, or it did not wait at all. */
	CHECK(now_s() - start >= INVALIDATE_TIMEOUT_S);
	CHECK(info(fd).device_alive == 0);
	CHECK_ERRNO(wait_for(fd, program.program, SOON_MS, &end), ENODEV);
	CHECK(mprotect(memory, PAGE, PROT_READ | PROT_WRITE) == 0);
	close(fd);
	ask_host("fault none");
	unbind_device();
	bind_device();
	check_quiet(memory, LEN);
}

static struct {
	unsigned char *memory;
	int file;
	_Atomic bool enough;
} storm;

/* Everything that takes pages away from a device. */
static void *take_pages(void *argument)
{
	unsigned int seed = (uintptr_t)argument + 1;

	while (!storm.enough) {
		size_t at = rand_r(&seed) % NR_PAGES * PAGE, len = (1 + rand_r(&seed) % 4) * PAGE;
		pid_t child;

		if (at + len > LEN)
			len = LEN - at;
		switch (rand_r(&seed) % 8) {
		case 0:
			CHECK(mprotect(storm.memory + at, len, PROT_READ) == 0);
			CHECK(mprotect(storm.memory + at, len, PROT_READ | PROT_WRITE) == 0);
			break;
		case 1:
			madvise(storm.memory + at, len, MADV_DONTNEED);
			break;
		case 2:
			madvise(storm.memory + at, len, MADV_PAGEOUT);
			break;
		case 3:
			CHECK(fsync(storm.file) == 0);
			break;
		case 4:
			CHECK(sync_file_range(storm.file, at, len, SYNC_FILE_RANGE_WRITE) == 0);
			break;
		case 5:
			drop_caches();
			break;
		case 6:
			child = fork();
			if (child == 0)
				_exit(0);
			CHECK(waitpid(child, NULL, 0) == child);
			break;
		case 7:
			CHECK(fallocate(storm.file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, at, PAGE) == 0);
			break;
		}
	}
	return NULL;
}

/*
 * fork() of another thread blocks all signals for a moment. A child that ends just then sends a SIGCHLD that is not ignored
 * but kept, and this thread, which blocks none, is woken for it.
 */
static int wait_in_spite_of_children(int fd, uint64_t program, struct longpin_wait *end)
{
	int failed;

	do
		failed = wait_for(fd, program, SOON_MS, end);
	while (failed && errno == EINTR);
	return failed;
}

/*
 * The device writes a pass, at random, while everything that there is takes its pages away. When it says that it has,
 * its bytes are where a reader finds them: nothing is lost, for nothing is written behind anybody's back.
 */
void test_mirror_storm(void)
{
	const char *rounds_text = getenv("STORM_ROUNDS");
	int rounds = rounds_text && atoi(rounds_text) > 0 ? atoi(rounds_text) : 20;
	int fd = open_device(), programs = 0;
	pthread_t threads[2];
	struct longpin_mirror seen;
	uint32_t region;

	alarm(STORM_S);
	storm.memory = map_file(&storm.file);
	region = mirror(fd, storm.memory, LEN, LONGPIN_ACCESS_WRITE);
	for (uintptr_t i = 0; i < 2; i++)
		CHECK(pthread_create(&threads[i], NULL, take_pages, (void *)i) == 0);
	for (int round = 0; round < rounds; round++) {
		for (int i = 0; i < 8; i++) {
			struct longpin_submit program = endless_program(region, LEN, 0);
			struct longpin_wait end;

			program.order = 1;
			program.seed = round * 8 + i;
			program.passes = 2;
			program.generation = 2 * programs + 1;
			CHECK(submit(fd, &program) == 0);
			CHECK(wait_in_spite_of_children(fd, program.program, &end) == 0);
			/* A page that is read-only at the moment is refused, as a store would be. */
			CHECK(end.status == STATUS_OK || (end.status == STATUS_FAULT && end.crc32c == EPERM));
			programs++;
		}
	}
	storm.enough = true;
	for (int i = 0; i < 2; i++)
		CHECK(pthread_join(threads[i], NULL) == 0);
	seen = counts(fd, region);
	note("%d programs: %llu invalidations, the longest %llu us, %llu faults, %llu refused, %llu retries", programs,
	     (unsigned long long)seen.invalidations, (unsigned long long)seen.longest_invalidation_ns / 1000,
	     (unsigned long long)seen.faults, (unsigned long long)seen.refused, (unsigned long long)seen.retries);
	CHECK(seen.invalidations > (uint64_t)rounds && seen.faults > (uint64_t)rounds);

	/* Quiet now: what the device wrote last is in the file, and on the disk. */
	dma_fill(fd, region, 0, LEN, 0x5a);
	CHECK(fsync(storm.file) == 0);
	CHECK(munmap(storm.memory, LEN) == 0);
	drop_caches();
	for (size_t at = 0; at < LEN; at += PAGE) {
		unsigned char page[PAGE];

		CHECK(pread(storm.file, page, PAGE, at) == PAGE && all_bytes(page, PAGE, 0x5a));
	}
	CHECK(unlink(file_path) == 0);
}

#define COST_PAGES 256
#define COST_LEN (COST_PAGES * PAGE)
#define COST_ROUNDS 11

enum { PINNED, KNOWN, UNKNOWN, CPU, PROTECT, PROTECT_MIRRORED, NR_COSTS };

/* Microseconds that the device takes for one pass. */
static double pass_us(int fd, uint32_t region)
{
	struct longpin_submit program = fill_program(region, 0, COST_LEN, 0x77);
	struct longpin_wait end;

	CHECK(submit(fd, &program) == 0 && wait_for(fd, program.program, SOON_MS, &end) == 0);
	CHECK(end.status == STATUS_OK);
	return (end.finished_ns - end.started_ns) / 1e3;
}

/* Takes the write bit away and gives it back; microseconds for the first half. */
static double protect_us(void *memory)
{
	double start = now_s(), took;

	CHECK(mprotect(memory, COST_LEN, PROT_READ) == 0);
	took = now_s() - start;
	CHECK(mprotect(memory, COST_LEN, PROT_READ | PROT_WRITE) == 0);
	return took * 1e6;
}

static int by_size(const void *a, const void *b)
{
	double left = *(const double *)a, right = *(const double *)b;

	return (left > right) - (left < right);
}

static double median(double *of)
{
	qsort(of, COST_ROUNDS, sizeof(*of), by_size);
	return of[COST_ROUNDS / 2];
}

/* Not a test of speed: the bench reads what it notes. Each round measures everything, so that ratios are of one moment. */
void test_mirror_cost(void)
{
	double us[NR_COSTS][COST_ROUNDS], at[NR_COSTS];
	int fd = open_device(), memfd;
	unsigned char *memory = map_memfd(COST_LEN, &memfd);
	struct longpin_pin pinned;
	uint32_t mirrored;

	memset(memory, 0, COST_LEN);
	for (int round = 0; round < COST_ROUNDS; round++) {
		uint64_t faults;
		double start;

		CHECK(pin(fd, memory, COST_LEN, LONGPIN_MODE_LONGTERM, LONGPIN_ACCESS_WRITE, &pinned) == 0);
		us[PINNED][round] = pass_us(fd, pinned.region);
		CHECK(release(fd, pinned.region, LONGPIN_RELEASE_DIRTY) == 0);

		us[PROTECT][round] = protect_us(memory);
		/* The page table forgets them, so that the CPU has to fault for each, and the device's fault as well. */
		CHECK(madvise(memory, COST_LEN, MADV_DONTNEED) == 0);
		start = now_s();
		for (size_t page = 0; page < COST_PAGES; page++)
			((volatile unsigned char *)memory)[page * PAGE] = round;
		us[CPU][round] = (now_s() - start) * 1e6;

		mirrored = mirror(fd, memory, COST_LEN, LONGPIN_ACCESS_WRITE);
		CHECK(madvise(memory, COST_LEN, MADV_DONTNEED) == 0);
		us[UNKNOWN][round] = pass_us(fd, mirrored);
		faults = counts(fd, mirrored).faults;
		CHECK(faults >= COST_PAGES);
		us[KNOWN][round] = pass_us(fd, mirrored);
		CHECK(counts(fd, mirrored).faults == faults);
		us[PROTECT_MIRRORED][round] = protect_us(memory);
		CHECK(counts(fd, mirrored).invalidations == 1 && counts(fd, mirrored).pages == 0);
		CHECK(release(fd, mirrored, LONGPIN_RELEASE_CLEAN) == 0);
	}
	for (int cost = 0; cost < NR_COSTS; cost++)
		at[cost] = median(us[cost]);
	note("a pass of %d pages, pinned: %.0f us; mirrored and known: %.0f us, ratio %.2f; mirrored and not known: "
	     "%.0f us, ratio %.1f",
	     COST_PAGES, at[PINNED], at[KNOWN], at[KNOWN] / at[PINNED], at[UNKNOWN], at[UNKNOWN] / at[PINNED]);
	note("faults of the device: %.0f a second; of a CPU: %.0f a second",
	     COST_PAGES / (at[UNKNOWN] / 1e6), COST_PAGES / (at[CPU] / 1e6));
	note("mprotect() of %d pages: %.0f us; with an invalidation of all of them: %.0f us", COST_PAGES, at[PROTECT],
	     at[PROTECT_MIRRORED]);
}
