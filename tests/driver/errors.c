// SPDX-License-Identifier: Apache-2.0 OR MIT
/* Arguments of every wrong kind: each has its errno, and none leaves anything behind. */
#define _GNU_SOURCE
#include "driver_test.h"

#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>

/* Number of an ioctl with a wrong size. */
#define WRONG_SIZE _IOWR(LONGPIN_IOC_TYPE, 1, char[55])

void test_info(void)
{
	int fd = open_device();
	struct longpin_info state = info(fd);
	struct stat node;
	char byte;

	CHECK(state.version == LONGPIN_VERSION && state.device_alive == 1);
	CHECK(state.max_region_bytes == 1 << 30 && state.nr_regions == 0 && state.nr_programs == 0);
	CHECK(stat(DEVICE, &node) == 0 && S_ISCHR(node.st_mode) && (node.st_mode & 07777) == 0600);
	CHECK_ERRNO(ioctl(fd, LONGPIN_IOC_INFO, (void *)8), EFAULT);
	CHECK_ERRNO(ioctl(fd, _IO(LONGPIN_IOC_TYPE, 99), 0), ENOTTY);
	CHECK_ERRNO(ioctl(fd, 0, 0), ENOTTY);
	CHECK_ERRNO(ioctl(fd, WRONG_SIZE, 0), ENOTTY);
	CHECK_ERRNO(lseek(fd, 0, SEEK_SET), ESPIPE);
	CHECK_ERRNO(read(fd, &byte, 1), EINVAL);
}

static void wrong_pins(int fd, unsigned char *memory)
{
	const struct {
		uintptr_t address;
		uint64_t len;
		unsigned int mode, access;
		int error;
	} wrong[] = {
		{ (uintptr_t)memory, 0, 1, 1, EINVAL },
		{ (uintptr_t)memory, 100, 1, 1, EINVAL },
		{ (uintptr_t)memory + 1, PAGE, 1, 1, EINVAL },
		{ (uintptr_t)memory, PAGE, 0, 1, EINVAL },
		{ (uintptr_t)memory, PAGE, 5, 1, EINVAL },
		{ (uintptr_t)memory, PAGE, 1, 2, EINVAL },
		{ (uintptr_t)memory, (1UL << 30) + PAGE, 1, 1, E2BIG },
		{ (uintptr_t)memory, 1UL << 40, 1, 1, E2BIG },
		/* The end is not an address. */
		{ (uintptr_t)memory, -PAGE, 1, 1, EINVAL },
		{ -PAGE, PAGE, 1, 1, EINVAL },
		/* The kernel's, nobody's, and the null page. */
		{ -4 * PAGE, PAGE, 1, 1, EFAULT },
		{ 0x800000000000UL, PAGE, 1, 1, EFAULT },
		{ 0, PAGE, 1, 1, EFAULT },
	};
	struct longpin_pin region;

	for (size_t i = 0; i < sizeof(wrong) / sizeof(*wrong); i++) {
		int result = pin(fd, (void *)wrong[i].address, wrong[i].len, wrong[i].mode, wrong[i].access, &region);

		if (result != -1 || errno != wrong[i].error)
			fail_at(__FILE__, __LINE__, "wrong pin %zu gave %d, %s", i, result, strerrorname_np(errno));
	}
	region = (struct longpin_pin){
		.addr = (uintptr_t)memory, .length = PAGE, .mode = 1, .access = 1, .reserved = 1,
	};
	CHECK_ERRNO(ioctl(fd, LONGPIN_IOC_PIN, &region), EINVAL);
	CHECK_ERRNO(ioctl(fd, LONGPIN_IOC_PIN, NULL), EFAULT);
}

/* What was pinned before the hole is given back. */
static void pins_over_a_hole(int fd, int64_t before)
{
	for (size_t pages = 8; pages <= 1024; pages *= 128) {
		unsigned char *memory = map_anonymous(pages * PAGE);
		struct longpin_pin region;

		munmap(memory + (pages - 3) * PAGE, PAGE);
		for (unsigned int mode = 1; mode <= 3; mode++)
			CHECK_ERRNO(pin(fd, memory, pages * PAGE, mode, LONGPIN_ACCESS_WRITE, &region), EFAULT);
		check_balance(fd, before);
	}
}

static void read_only_memory(int fd, const unsigned char *target, int64_t before)
{
	struct longpin_pin region, *argument = map_anonymous(PAGE);
	void *memory = mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	CHECK(memory != MAP_FAILED);
	CHECK_ERRNO(pin(fd, memory, PAGE, 1, LONGPIN_ACCESS_WRITE, &region), EFAULT);
	/* The zero page: only FOLL_LONGTERM replaces it with one of the process' own. */
	CHECK_ERRNO(pin(fd, memory, PAGE, LONGPIN_MODE_GET, LONGPIN_ACCESS_READ, &region), EFAULT);
	CHECK_ERRNO(pin(fd, memory, PAGE, LONGPIN_MODE_PIN, LONGPIN_ACCESS_READ, &region), EFAULT);
	CHECK(pin(fd, memory, PAGE, LONGPIN_MODE_LONGTERM, LONGPIN_ACCESS_READ, &region) == 0);
	CHECK(release(fd, region.region, LONGPIN_RELEASE_CLEAN) == 0);

	/* The answer cannot be written: the pin is taken back. */
	*argument = (struct longpin_pin){ .addr = (uintptr_t)target, .length = PAGE, .mode = 1, .access = 1 };
	CHECK(mprotect(argument, PAGE, PROT_READ) == 0);
	CHECK_ERRNO(ioctl(fd, LONGPIN_IOC_PIN, argument), EFAULT);
	check_balance(fd, before);
}

static void wrong_handles(int fd)
{
	struct longpin_stop stop = { .program = 99999 };
	struct longpin_wait wait;

	CHECK_ERRNO(release(fd, 12345, 0), ENOENT);
	CHECK_ERRNO(release(fd, 0, 0), ENOENT);
	CHECK_ERRNO(release(fd, 0, 2), EINVAL);
	CHECK_ERRNO(wait_for(fd, 1234567, 0, &wait), ENOENT);
	wait = (struct longpin_wait){ .reserved = 1 };
	CHECK_ERRNO(ioctl(fd, LONGPIN_IOC_WAIT, &wait), EINVAL);
	CHECK_ERRNO(ioctl(fd, LONGPIN_IOC_STOP, &stop), ENOENT);
}

static void wrong_programs(int fd, const void *memory)
{
	struct longpin_submit program;
	struct longpin_pin region;

/* A program that is right but for this. */
#define CHECK_WRONG(error, ...)                                          \
	do {                                                             \
		program = endless_program(region.region, 4 * PAGE, 1000); \
		__VA_ARGS__;                                             \
		CHECK_ERRNO(submit(fd, &program), error);                \
	} while (0)

	CHECK(pin(fd, memory, 4 * PAGE, LONGPIN_MODE_LONGTERM, LONGPIN_ACCESS_WRITE, &region) == 0);
	CHECK_WRONG(ENOENT, program.region = 0);
	CHECK_WRONG(ENOENT, program.region = region.region + 1);
	CHECK_WRONG(EINVAL, program.order = 2);
	CHECK_WRONG(EINVAL, program.direction = 2);
	CHECK_WRONG(EINVAL, program.payload = 2);
	CHECK_WRONG(EINVAL, program.length = 0);
	CHECK_WRONG(EINVAL, program.length = 100);
	CHECK_WRONG(EINVAL, program.offset = 1);
	CHECK_WRONG(EINVAL, program.cell_bytes = 0);
	CHECK_WRONG(EINVAL, program.cell_bytes = 32);
	CHECK_WRONG(EINVAL, program.cell_bytes = 63);
	CHECK_WRONG(EINVAL, program.cell_bytes = 8192);
	CHECK_WRONG(EINVAL, program.fill = 1);
	CHECK_WRONG(EINVAL, program.payload = PAYLOAD_FILL; program.fill = 256);
	CHECK_WRONG(ERANGE, program.length = 5 * PAGE);
	CHECK_WRONG(ERANGE, program.length = -(uint64_t)CELL);
	CHECK_WRONG(ERANGE, program.offset = 4 * PAGE; program.length = CELL);
	CHECK_WRONG(ERANGE, program.offset = -(uint64_t)CELL; program.length = 2 * CELL);
	CHECK(release(fd, region.region, LONGPIN_RELEASE_CLEAN) == 0);
	CHECK_WRONG(ENOENT, );
#undef CHECK_WRONG
}

/* Regions belong to the open file that pinned them. */
static void regions_of_others(int fd, const void *memory)
{
	struct longpin_submit program;
	struct longpin_query state;
	struct longpin_pin region;
	int other = open_device();

	CHECK(pin(fd, memory, PAGE, LONGPIN_MODE_LONGTERM, LONGPIN_ACCESS_WRITE, &region) == 0);
	program = endless_program(region.region, PAGE, 1000);
	CHECK_ERRNO(release(other, region.region, 0), ENOENT);
	CHECK_ERRNO(query(other, region.region, 0, &state), ENOENT);
	CHECK_ERRNO(submit(other, &program), ENOENT);
	close(other);
	CHECK(info(fd).pages_pinned == 1);
	CHECK(release(fd, region.region, 0) == 0);
}

void test_errors(void)
{
	unsigned char *memory = map_anonymous(8 * PAGE);
	int64_t before = pins_held();
	int fd = open_device();

	memset(memory, 0, 8 * PAGE);
	wrong_pins(fd, memory);
	check_balance(fd, before);
	pins_over_a_hole(fd, before);
	read_only_memory(fd, memory, before);
	wrong_handles(fd);
	wrong_programs(fd, memory);
	regions_of_others(fd, memory);
	check_balance(fd, before);
}

#define NR_WORDS 16

/* Numbers as they are likely to hurt. */
static uint64_t likely(unsigned char *memory)
{
	switch (random() % 6) {
	case 0: return 0;
	case 1: return random() % 8;
	case 2: return (uint64_t)random() << 40 ^ (uint64_t)random() << 20 ^ random();
	case 3: return (uintptr_t)memory + random() % 33 * PAGE;
	case 4: return PAGE << random() % 20;
	default: return -1ULL >> random() % 64;
	}
}

/* Any bytes to any ioctl; half of the pins, programs and queries are nearly right. */
void test_fuzz(void)
{
	static const unsigned long commands[] = {
		LONGPIN_IOC_INFO, LONGPIN_IOC_PIN, LONGPIN_IOC_RELEASE, LONGPIN_IOC_SUBMIT, LONGPIN_IOC_WAIT,
		LONGPIN_IOC_STOP, LONGPIN_IOC_QUERY,
	};
	unsigned char *memory = map_anonymous(32 * PAGE);
	long nr_calls = 40000, nr_done[7] = { 0 };
	uint32_t newest = 0;
	int64_t before = pins_held();
	int fd = open_device();

	srandom(1);
	for (long call = 0; call < nr_calls; call++) {
		union {
			uint64_t words[NR_WORDS];
			struct longpin_pin pin;
			struct longpin_submit submit;
			struct longpin_query query;
			struct longpin_wait wait;
		} argument;
		unsigned int which = random() % 7;
		unsigned long command = commands[which];
		void *address = &argument;

		for (int i = 0; i < NR_WORDS; i++)
			argument.words[i] = likely(memory);
		if (command == LONGPIN_IOC_PIN && random() % 2)
			argument.pin = (struct longpin_pin){
				.addr = (uintptr_t)memory + random() % 32 * PAGE, .length = random() % 33 * PAGE,
				.mode = random() % 6, .access = random() % 3,
			};
		if (command == LONGPIN_IOC_SUBMIT && random() % 2) {
			/* Slowly: hundreds of them run at once, and the ledger has them all. */
			argument.submit = endless_program(newest - random() % 20, PAGE, 200);
			argument.submit.offset = random() % 64 * CELL;
			argument.submit.passes = random() % 3;
		}
		if (command == LONGPIN_IOC_QUERY && random() % 2)
			argument.query = (struct longpin_query){ .region = newest - random() % 20 };
		if (command == LONGPIN_IOC_WAIT)
			argument.wait.timeout_ms %= 3;
		if (random() % 50 == 0)
			command ^= 1UL << random() % 32;
		if (random() % 30 == 0)
			address = (void *)((uint64_t)random() << 30 ^ random());
		if (ioctl(fd, command, address) == 0) {
			nr_done[which]++;
			if (command == LONGPIN_IOC_PIN)
				newest = argument.pin.region;
		}
		if (random() % 2000 == 0) {
			close(fd);
			fd = open_device();
		}
	}
	close(fd);
	note("%ld calls; done: %ld pins, %ld programs, %ld queries", nr_calls, nr_done[1], nr_done[3], nr_done[6]);
	CHECK(nr_done[1] > 10 && nr_done[3] > 10 && nr_done[6] > 10);
	fd = open_device();
	check_balance(fd, before);
}
