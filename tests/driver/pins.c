// SPDX-License-Identifier: Apache-2.0 OR MIT
/* Pins of every kind of memory: what is pinned is counted, reached by DMA, and given back. */
#define _GNU_SOURCE
#include "driver_test.h"

#include <fcntl.h>
#include <signal.h>
#include <linux/io_uring.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define HUGE_PAGE (2UL << 20)

static const char *const file_path = "/mnt/driver-test";

/* Pin, look, write all and a part off the page borders, release. */
static void round_trip(unsigned char *memory, size_t len, unsigned int mode, unsigned int access)
{
	int fd = open_device();
	int64_t before = pins_held();
	uint32_t pages = len / PAGE;
	struct longpin_query state;
	struct longpin_pin region;

	CHECK(pin(fd, memory, len, mode, access, &region) == 0);
	CHECK(region.region && region.nr_pages == pages);
	CHECK(region.nr_segments >= 1 && region.nr_segments <= pages);
	/* FOLL_GET takes a reference that nobody counts as a pin. */
	CHECK(pins_held() - before == (mode == LONGPIN_MODE_GET ? 0 : pages));
	CHECK(pinned_kib() == len / 1024);
	CHECK(info(fd).pages_pinned == pages);

	dma_fill(fd, region.region, 0, len, 0xab);
	CHECK(all_bytes(memory, len, 0xab));
	if (len > PAGE) {
		dma_fill(fd, region.region, 100, PAGE, 0xcd);
		CHECK(memory[99] == 0xab && all_bytes(memory + 100, PAGE, 0xcd) && memory[100 + PAGE] == 0xab);
	}

	CHECK(query(fd, region.region, pages - 1, &state) == 0);
	CHECK(state.mode == mode && state.access == access && state.length == len);
	CHECK(state.nr_pages == pages && state.nr_segments == region.nr_segments && state.nr_running == 0);
	CHECK(state.page_has_mapping == 1 && state.folio_pages >= 1 && state.page_dma_addr && state.page_flags);
	CHECK_ERRNO(query(fd, region.region, pages, &state), ERANGE);

	CHECK(release(fd, region.region, mode & 1 ? LONGPIN_RELEASE_DIRTY : LONGPIN_RELEASE_CLEAN) == 0);
	CHECK_ERRNO(release(fd, region.region, LONGPIN_RELEASE_CLEAN), ENOENT);
	CHECK_ERRNO(query(fd, region.region, 0, &state), ENOENT);
	check_balance(fd, before);
	close(fd);
}

static void each_mode(unsigned char *memory, size_t len)
{
	for (unsigned int mode = LONGPIN_MODE_LONGTERM; mode <= LONGPIN_MODE_GET; mode++)
		round_trip(memory, len, mode, LONGPIN_ACCESS_WRITE);
}

void test_anonymous(void)
{
	for (size_t pages = 1; pages <= 64; pages *= 64) {
		unsigned char *memory = map_anonymous(pages * PAGE);

		memset(memory, 1, pages * PAGE);
		each_mode(memory, pages * PAGE);
		for (unsigned int mode = LONGPIN_MODE_LONGTERM; mode <= LONGPIN_MODE_GET; mode++)
			round_trip(memory, pages * PAGE, mode, LONGPIN_ACCESS_READ);
	}
	/* Not touched before: GUP faults it in. */
	round_trip(map_anonymous(600 * PAGE), 600 * PAGE, LONGPIN_MODE_LONGTERM, LONGPIN_ACCESS_WRITE);
}

void test_shmem(void)
{
	unsigned char page[PAGE];
	int memfd;
	unsigned char *memory = map_memfd(32 * PAGE, &memfd);

	each_mode(memory, 32 * PAGE);
	CHECK(pread(memfd, page, PAGE, 31 * PAGE) == PAGE);
	CHECK(all_bytes(page, PAGE, 0xab));
}

void test_file(void)
{
	size_t len = 16 * PAGE;
	int file = open(file_path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600), fd = open_device();
	int64_t before = pins_held();
	struct longpin_query state;
	struct longpin_pin region;
	unsigned char page[PAGE], *memory;

	CHECK(file >= 0);
	memset(page, 0x11, PAGE);
	for (size_t at = 0; at < len; at += PAGE)
		CHECK(pwrite(file, page, PAGE, at) == PAGE);
	CHECK(fsync(file) == 0);
	memory = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	CHECK(memory != MAP_FAILED);

	/* mm/gup.c: writable_file_mapping_allowed() */
	CHECK_ERRNO(pin(fd, memory, len, LONGPIN_MODE_LONGTERM, LONGPIN_ACCESS_WRITE, &region), EFAULT);
	check_balance(fd, before);
	round_trip(memory, len, LONGPIN_MODE_PIN, LONGPIN_ACCESS_WRITE);
	round_trip(memory, len, LONGPIN_MODE_GET, LONGPIN_ACCESS_WRITE);

	/* Truncated under the pin: the page has left the file, and is still pinned. */
	CHECK(pin(fd, memory, len, LONGPIN_MODE_PIN, LONGPIN_ACCESS_WRITE, &region) == 0);
	CHECK(query(fd, region.region, 3, &state) == 0 && state.page_has_mapping == 1);
	CHECK(ftruncate(file, 0) == 0);
	CHECK(query(fd, region.region, 3, &state) == 0 && state.page_has_mapping == 0);
	CHECK(release(fd, region.region, LONGPIN_RELEASE_DIRTY) == 0);
	check_balance(fd, before);
	close(file);
	CHECK(unlink(file_path) == 0);
}

static unsigned char *align_huge(void *memory)
{
	return (unsigned char *)(((uintptr_t)memory + HUGE_PAGE - 1) & ~(HUGE_PAGE - 1));
}

void test_huge_pages(void)
{
	size_t len = 2 * HUGE_PAGE;
	unsigned char *memory = align_huge(map_anonymous(len + HUGE_PAGE));
	int64_t before = pins_held();
	struct longpin_query state;
	struct longpin_pin region;
	volatile unsigned char *zero;
	int fd = open_device();

	CHECK(madvise(memory, len, MADV_HUGEPAGE) == 0);
	memset(memory, 1, len);
	CHECK(pin(fd, memory, len, LONGPIN_MODE_LONGTERM, LONGPIN_ACCESS_WRITE, &region) == 0);
	CHECK(query(fd, region.region, 700, &state) == 0);
	CHECK(state.folio_pages == 512 && region.nr_segments <= 2);
	dma_fill(fd, region.region, 0, len, 0x5a);
	CHECK(all_bytes(memory, len, 0x5a));
	CHECK(release(fd, region.region, LONGPIN_RELEASE_DIRTY) == 0);

	/* The shared huge zero page is nobody's to pin. */
	zero = align_huge(map_anonymous(2 * HUGE_PAGE));
	CHECK(madvise((void *)zero, HUGE_PAGE, MADV_HUGEPAGE) == 0);
	CHECK(zero[5] == 0);
	CHECK_ERRNO(pin(fd, (void *)zero, HUGE_PAGE, LONGPIN_MODE_PIN, LONGPIN_ACCESS_READ, &region), EFAULT);
	CHECK_ERRNO(pin(fd, (void *)zero, PAGE, LONGPIN_MODE_GET, LONGPIN_ACCESS_READ, &region), EFAULT);
	check_balance(fd, before);
	close(fd);

	write_file("/proc/sys/vm/nr_hugepages", "8");
	memory = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);
	CHECK(memory != MAP_FAILED);
	each_mode(memory, len);
	munmap(memory, len);
	write_file("/proc/sys/vm/nr_hugepages", "0");
}

/*
 * A large folio without mapping that is no zero page: the kernel allocates the rings of io_uring in one piece and
 * inserts their pages into the owner's memory. It stands for a large folio that is truncated between pin and look,
 * which cannot be timed.
 */
void test_folio_without_mapping(void)
{
	struct io_uring_params params = { 0 };
	int64_t before = pins_held();
	struct longpin_query state;
	struct longpin_pin region;
	int fd = open_device();
	int ring = syscall(SYS_io_uring_setup, 1024, &params);
	void *memory;
	size_t len;

	if (ring < 0 && (errno == ENOSYS || errno == EPERM))
		skip("this kernel has no io_uring");
	CHECK(ring >= 0);
	len = params.sq_entries * sizeof(struct io_uring_sqe);
	memory = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring, IORING_OFF_SQES);
	CHECK(memory != MAP_FAILED);
	for (unsigned int mode = LONGPIN_MODE_PIN; mode <= LONGPIN_MODE_GET; mode++) {
		CHECK(pin(fd, memory, len, mode, LONGPIN_ACCESS_READ, &region) == 0);
		CHECK(query(fd, region.region, 0, &state) == 0);
		CHECK(state.folio_pages > 1 && state.page_has_mapping == 0);
		CHECK(release(fd, region.region, LONGPIN_RELEASE_CLEAN) == 0);
	}
	check_balance(fd, before);
	close(ring);
}

/* More segments than one message to the device holds, and every page at its place. */
void test_scattered(void)
{
	const uint64_t label = 1ULL << 40;
	size_t pages = 16384, len = pages * PAGE;
	int fd = open_device();
	unsigned char *memory = map_scattered(pages);
	int64_t before = pins_held();
	struct longpin_submit program;
	struct longpin_pin region;
	struct longpin_wait end;

	region = (struct longpin_pin){
		.addr = (uintptr_t)memory, .length = len, .mode = LONGPIN_MODE_LONGTERM,
		.access = LONGPIN_ACCESS_WRITE, .file_offset = label, .run = 77,
	};
	CHECK(ioctl(fd, LONGPIN_IOC_PIN, &region) == 0);
	CHECK(region.nr_segments > 8000);
	program = (struct longpin_submit){
		.region = region.region, .length = len, .cell_bytes = PAGE, .generation = 3, .passes = 1, .run = 78,
	};
	CHECK(submit(fd, &program) == 0 && wait_for(fd, program.program, SOON_MS, &end) == 0);
	CHECK(end.status == STATUS_OK && end.cells_done == pages && end.last_generation == 3);
	for (size_t i = 0; i < pages; i++) {
		const uint64_t *stamp = (const uint64_t *)(memory + i * PAGE);

		CHECK(!memcmp(stamp, "LONGPIN\x01", 8));
		CHECK(stamp[1] == 78 && stamp[2] == label + i * PAGE && stamp[3] == 3);
	}
	CHECK(release(fd, region.region, LONGPIN_RELEASE_DIRTY) == 0);
	check_balance(fd, before);
}

/* The largest region; and its owner killed while it pins. */
void test_gigabyte(void)
{
	size_t len = 1UL << 30;
	unsigned char *memory = map_anonymous(len);
	int fd = open_device();
	int64_t before = pins_held();
	struct longpin_query state;
	struct longpin_pin region;
	double begin = now_s();
	pid_t child;

	CHECK(madvise(memory, len, MADV_NOHUGEPAGE) == 0);
	CHECK(pin(fd, memory, len, LONGPIN_MODE_LONGTERM, LONGPIN_ACCESS_WRITE, &region) == 0);
	note("1 GiB: pinned in %.2f s, %u segments", now_s() - begin, region.nr_segments);
	CHECK(region.nr_pages == len / PAGE && pins_held() - before == (int64_t)(len / PAGE));
	dma_fill(fd, region.region, len - 3 * PAGE, 3 * PAGE, 0x42);
	CHECK(all_bytes(memory + len - 3 * PAGE, 3 * PAGE, 0x42) && all_bytes(memory + len - 4 * PAGE, PAGE, 0));
	CHECK(query(fd, region.region, len / PAGE - 1, &state) == 0);
	begin = now_s();
	CHECK(release(fd, region.region, LONGPIN_RELEASE_DIRTY) == 0);
	note("1 GiB: released in %.2f s", now_s() - begin);
	check_balance(fd, before);

	CHECK(madvise(memory, len, MADV_DONTNEED) == 0);
	child = fork();
	if (child == 0) {
		pin(fd, memory, len, LONGPIN_MODE_PIN, LONGPIN_ACCESS_WRITE, &region);
		_exit(0);
	}
	/* Pins are counted as they are taken, so this is the middle. */
	EVENTUALLY(pins_held() > before);
	CHECK(kill(child, SIGKILL) == 0 && waitpid(child, NULL, 0) == child);
	close(fd);
	EVENTUALLY(pins_held() == before);
}
