// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 OR MIT
/*
 * exfat: bytes that read(2) puts into a shared mapping of the same file are lost, and fsync(2) returns 0.
 *
 *     cc -static -O2 -Wall -o repro repro.c && ./repro /mnt        (an exfat file system; any other is a control)
 *
 * Exit code: 1 the bytes are lost, 0 they are there, 2 it could not be tried.
 */
#define _GNU_SOURCE
#include <err.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE 4096
#define LENGTH (16 * PAGE)
#define AT (8 * PAGE)

int main(int argc, char **argv)
{
	static char page[PAGE], found[PAGE];
	char *map;
	int fd, lost;

	if (argc != 2 || chdir(argv[1]))
		errx(2, "usage: repro DIRECTORY");
	memset(page, 'n', PAGE);
	fd = open("file", O_RDWR | O_CREAT | O_TRUNC, 0600);
	/* One page is valid; the other fifteen read as zeros. */
	if (fd < 0 || pwrite(fd, page, PAGE, 0) != PAGE || ftruncate(fd, LENGTH))
		err(2, "file");
	map = mmap(NULL, LENGTH, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (map == MAP_FAILED)
		err(2, "mmap");
	/* The copy to the mapping faults with the lock of the inode held by read(2) itself. */
	if (pread(fd, map + AT, PAGE, 0) != PAGE)
		err(2, "read into the mapping");
	if (memcmp(map + AT, page, PAGE))
		errx(2, "the mapping has not what read(2) put there");
	if (msync(map, LENGTH, MS_SYNC) || fsync(fd))
		err(2, "fsync");
	printf("read(2) into the mapping, msync and fsync: 0\n");
	/* Out of the page cache, and in again. */
	munmap(map, LENGTH);
	posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
	if (pread(fd, found, PAGE, AT) != PAGE)
		err(2, "read");
	lost = memcmp(found, page, PAGE) != 0;
	printf("the file has 0x%02x where 0x%02x was stored: %s\n", found[0], page[0], lost ? "LOST" : "fine");
	return lost;
}
