// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 OR MIT
/*
 * mm: cachestat(2) of a file on a DAX mount is a page fault in the kernel.
 *
 *     cc -static -O2 -Wall -o repro repro.c && ./repro /mnt        (ext4 or xfs with -o dax=always; any other is a control)
 *
 * No privilege is needed but a file there that may be written. Exit code: 1 the caller died in the call, 0 it was answered,
 * 2 it could not be tried.
 */
#define _GNU_SOURCE
#include <err.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define NR_CACHESTAT 451
#define LENGTH (16 * 4096)
#define PATIENCE_S 20

/* struct cachestat_range and struct cachestat of <linux/mman.h>, which older headers lack. */
struct range { uint64_t off, len; };
struct counts { uint64_t cache, dirty, writeback, evicted, recently_evicted; };

static int ask(int fd)
{
	struct range all = { 0, 0 };
	struct counts counts;

	if (syscall(NR_CACHESTAT, fd, &all, &counts, 0)) {
		warn("cachestat");
		return 2;
	}
	printf("cachestat: %llu pages, %llu of them dirty\n", (unsigned long long)counts.cache, (unsigned long long)counts.dirty);
	return 0;
}

int main(int argc, char **argv)
{
	int fd, status;
	char *map;
	pid_t child;

	setvbuf(stdout, NULL, _IONBF, 0);
	if (argc != 2 || chdir(argv[1]))
		errx(2, "usage: repro DIRECTORY");
	fd = open("file", O_RDWR | O_CREAT | O_TRUNC, 0600);
	if (fd < 0 || ftruncate(fd, LENGTH))
		err(2, "file");
	map = mmap(NULL, LENGTH, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (map == MAP_FAILED)
		err(2, "mmap");
	/* A write fault puts the frame's number into the tree of the file's pages. */
	for (int at = 0; at < LENGTH; at += 4096)
		map[at] = 1;
	child = fork();
	if (child < 0)
		err(2, "fork");
	if (child == 0)
		_exit(ask(fd));
	for (int tenths = 0; tenths < 10 * PATIENCE_S; tenths++, usleep(100000)) {
		pid_t ended = waitpid(child, &status, WNOHANG);

		if (ended == child && WIFEXITED(status))
			return WEXITSTATUS(status);
		if (ended == child) {
			printf("the caller of cachestat(2) was killed by the kernel, signal %d: OOPS\n", WTERMSIG(status));
			return 1;
		}
	}
	printf("cachestat(2) did not return in %d s: HANGS\n", PATIENCE_S);
	return 1;
}
