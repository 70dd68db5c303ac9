// SPDX-License-Identifier: Apache-2.0 OR MIT
/*
 * driver-test-32: a 32-bit program that uses /dev/longpin0 and writes to its standard output what it was told. Without
 * a C library, since there is none for 32 bits where it is built.
 */
#include "compat.h"

#include <asm/unistd_32.h>

static long call(long number, long a, long b, long c)
{
	long result;

	__asm__ volatile("int $0x80" : "=a"(result) : "a"(number), "b"(a), "c"(b), "d"(c) : "memory");
	return result;
}

static _Alignas(4096) char page[4096];

static int run(void)
{
	static struct compat_told told;
	long fd = call(__NR_open, (long)"/dev/longpin0", 2 /* O_RDWR */, 0);
	struct longpin_release release = { .how = LONGPIN_RELEASE_CLEAN };

	if (fd < 0)
		return 2;
	page[0] = 1;
	told.pin = (struct longpin_pin){
		.addr = (unsigned long)page, .length = sizeof(page), .mode = LONGPIN_MODE_LONGTERM,
		.access = LONGPIN_ACCESS_WRITE, .file_offset = COMPAT_FILE_OFFSET,
	};
	if (call(__NR_ioctl, fd, LONGPIN_IOC_PIN, (long)&told.pin) != 0)
		return 3;
	if (call(__NR_ioctl, fd, LONGPIN_IOC_INFO, (long)&told.info) != 0)
		return 4;
	told.query.region = told.pin.region;
	if (call(__NR_ioctl, fd, LONGPIN_IOC_QUERY, (long)&told.query) != 0)
		return 5;
	release.region = told.pin.region;
	if (call(__NR_ioctl, fd, LONGPIN_IOC_RELEASE, (long)&release) != 0)
		return 6;
	return call(__NR_write, 1, (long)&told, sizeof(told)) == sizeof(told) ? 0 : 7;
}

_Noreturn void _start(void)
{
	for (;;)
		call(__NR_exit, run(), 0, 0);
}
