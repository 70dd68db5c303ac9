// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 OR MIT
/*
 * A pinner for longpin (docs/pinners.md): the pages of a file mapped for a device by VFIO (type 1), and QEMU's teaching
 * device edu, which writes into them through the IOMMU. No driver is involved but the kernel's own vfio-pci.
 *
 *     cc -static -O2 -o vfio_edu vfio_edu.c
 *
 * docs/pinners.md has the options that give a guest the device, an IOMMU, and the modules.
 * With -DREAD_ONLY the pages are mapped for reading only, and the device writes all the same.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <linux/pci_regs.h>
#include <linux/vfio.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE 4096ul
/* The device has 28 address bits and a buffer of one page; its timer makes each transfer last 100 ms. */
#define IOVA_BUFFER 0x100000ul
#define IOVA_PINNED 0x200000ul
#define EDU_BUFFER 0x40000ul
#define EDU_DMA_SOURCE 0x80
#define EDU_DMA_TARGET 0x88
#define EDU_DMA_COUNT 0x90
#define EDU_DMA_COMMAND 0x98
#define EDU_DMA_START 1
#define EDU_DMA_TO_MEMORY 2

static int file, bytes, container = -1, group = -1, device = -1;
#ifdef READ_ONLY
static const int read_only = 1;
#else
static const int read_only;
#endif
static unsigned char *memory, *buffer;	/* what is pinned, and a page from which the device takes what it is to write */
static unsigned long length;
static volatile uint8_t *bar;
static const char *failed = "";

static void ok(const char *text)
{
	printf(*text ? "ok %s\n" : "ok\n", text);
}

static void refused(const char *call)
{
	printf("errno %d %s\n", errno, call);
}

static int say(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY), n = fd < 0 ? -1 : (int)write(fd, text, strlen(text));

	if (fd >= 0)
		close(fd);
	return n < 0 ? -1 : 0;
}

static int map(void *address, unsigned long len, unsigned long iova, unsigned flags)
{
	struct vfio_iommu_type1_dma_map map = {
		.argsz = sizeof(map), .flags = flags, .vaddr = (uintptr_t)address, .iova = iova, .size = len,
	};

	return ioctl(container, VFIO_IOMMU_MAP_DMA, &map);
}

static int unmap(unsigned long len, unsigned long iova)
{
	struct vfio_iommu_type1_dma_unmap unmap = { .argsz = sizeof(unmap), .iova = iova, .size = len };

	return ioctl(container, VFIO_IOMMU_UNMAP_DMA, &unmap);
}

/* The first edu, for instance 0000:00:05.0. */
static int find(char *name, size_t size)
{
	DIR *dir = opendir("/sys/bus/pci/devices");
	struct dirent *entry;

	while (dir && (entry = readdir(dir))) {
		char path[300], vendor[16] = "", id[16] = "";
		FILE *f;

		if (entry->d_name[0] == '.')
			continue;
		snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/vendor", entry->d_name);
		if ((f = fopen(path, "r"))) {
			if (fscanf(f, "%15s", vendor) != 1)
				vendor[0] = 0;
			fclose(f);
		}
		snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/device", entry->d_name);
		if ((f = fopen(path, "r"))) {
			if (fscanf(f, "%15s", id) != 1)
				id[0] = 0;
			fclose(f);
		}
		if (!strcmp(vendor, "0x1234") && !strcmp(id, "0x11e8")) {
			snprintf(name, size, "%.60s", entry->d_name);
			return 0;
		}
	}
	errno = ENODEV;
	return -1;
}

/* Everything before the pin. What is missing is said at the pin: ENOSYS skips the case. */
static int setup(void)
{
	struct vfio_group_status status = { .argsz = sizeof(status) };
	struct vfio_region_info region = { .argsz = sizeof(region), .index = VFIO_PCI_BAR0_REGION_INDEX };
	struct vfio_region_info config = { .argsz = sizeof(config), .index = VFIO_PCI_CONFIG_REGION_INDEX };
	char name[64], path[300], link[300];
	uint16_t command;
	ssize_t n;

	if (find(name, sizeof(name)))
		return failed = "there is no edu: --qemu-arg -device --qemu-arg edu", -1;
	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/driver_override", name);
	if (say(path, "vfio-pci\n"))
		return failed = "driver_override", -1;
	/* It may be bound already, by an earlier region. */
	say("/sys/bus/pci/drivers/vfio-pci/bind", name);
	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/iommu_group", name);
	n = readlink(path, link, sizeof(link) - 1);
	if (n < 0)
		return failed = "there is no IOMMU: -device intel-iommu, and intel_iommu=on for the kernel", -1;
	link[n] = 0;
	snprintf(path, sizeof(path), "/dev/vfio/%s", basename(link));
	container = open("/dev/vfio/vfio", O_RDWR);
	group = open(path, O_RDWR);
	if (container < 0 || group < 0)
		return failed = "open(/dev/vfio): vfio-pci and vfio_iommu_type1 must be loaded", -1;
	if (ioctl(group, VFIO_GROUP_GET_STATUS, &status) || !(status.flags & VFIO_GROUP_FLAGS_VIABLE))
		return failed = "the IOMMU group is not viable", -1;
	if (ioctl(group, VFIO_GROUP_SET_CONTAINER, &container))
		return failed = "VFIO_GROUP_SET_CONTAINER", -1;
	if (ioctl(container, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU))
		return failed = "VFIO_SET_IOMMU", -1;
	device = ioctl(group, VFIO_GROUP_GET_DEVICE_FD, name);
	if (device < 0)
		return failed = "VFIO_GROUP_GET_DEVICE_FD", -1;
	if (ioctl(device, VFIO_DEVICE_GET_REGION_INFO, &region) || ioctl(device, VFIO_DEVICE_GET_REGION_INFO, &config))
		return failed = "VFIO_DEVICE_GET_REGION_INFO", -1;
	if (pread(device, &command, 2, config.offset + PCI_COMMAND) != 2)
		return failed = "read of the configuration space", -1;
	command |= PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER;
	if (pwrite(device, &command, 2, config.offset + PCI_COMMAND) != 2)
		return failed = "write of the configuration space", -1;
	bar = mmap(NULL, region.size, PROT_READ | PROT_WRITE, MAP_SHARED, device, region.offset);
	buffer = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (bar == MAP_FAILED || buffer == MAP_FAILED)
		return failed = "mmap", -1;
	/* Before 6.2 a pin for reading takes the zero page, and what is stored later goes to another one. */
	memset(buffer, 0xff, PAGE);
	if (map(buffer, PAGE, IOVA_BUFFER, VFIO_DMA_MAP_FLAG_READ))
		return failed = "VFIO_IOMMU_MAP_DMA of a page of its own", -1;
	return 0;
}

static void pin(unsigned long offset, unsigned long len)
{
	unsigned flags = VFIO_DMA_MAP_FLAG_READ | (read_only ? 0 : VFIO_DMA_MAP_FLAG_WRITE);

	if (*failed)
		return refused(failed);
	if (memory || !len || offset % PAGE || len % PAGE) {
		errno = EINVAL;
		return refused("pin");
	}
	memory = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, file, offset);
	if (memory == MAP_FAILED) {
		memory = NULL;
		return refused("mmap");
	}
	if (map(memory, len, IOVA_PINNED, flags)) {
		int error = errno;

		munmap(memory, len);
		memory = NULL;
		errno = error;
		return refused("ioctl(VFIO_IOMMU_MAP_DMA)");
	}
	length = len;
	ok("");
}

static void reg(unsigned at, uint64_t value)
{
	*(volatile uint32_t *)(bar + at) = value;
	*(volatile uint32_t *)(bar + at + 4) = value >> 32;
}

static int transfer(uint64_t source, uint64_t target, unsigned long n, unsigned command)
{
	int patience = 10000;

	reg(EDU_DMA_SOURCE, source);
	reg(EDU_DMA_TARGET, target);
	reg(EDU_DMA_COUNT, n);
	reg(EDU_DMA_COMMAND, EDU_DMA_START | command);
	while (*(volatile uint32_t *)(bar + EDU_DMA_COMMAND) & EDU_DMA_START) {
		if (!patience--) {
			errno = ETIMEDOUT;
			return -1;
		}
		usleep(1000);
	}
	return 0;
}

static void dma(unsigned long offset, unsigned long len, unsigned long at)
{
	if (!memory || !len || offset > length || len > length - offset) {
		errno = EINVAL;
		return refused("dma");
	}
	while (len) {
		unsigned long n = len < PAGE ? len : PAGE;

		if (pread(bytes, buffer, n, at) != (ssize_t)n) {
			errno = EIO;
			return refused("read of the bytes");
		}
		if (transfer(IOVA_BUFFER, EDU_BUFFER, n, 0) ||
		    transfer(EDU_BUFFER, IOVA_PINNED + offset, n, EDU_DMA_TO_MEMORY))
			return refused("a transfer of edu");
		/* The device is told nothing when the IOMMU keeps its write off. */
		if (read_only && memcmp(memory + offset, buffer, n)) {
			errno = EFAULT;
			return refused("DMA write of edu through a mapping for reading");
		}
		offset += n, at += n, len -= n;
	}
	ok("");
}

/* vfio_unmap_unpin() -> put_pfn(): dirty if the pages were mapped for writing, else clean. */
static void release(const char *how)
{
	if (!memory || strcmp(how, read_only ? "clean" : "dirty")) {
		errno = memory ? EOPNOTSUPP : EINVAL;
		return refused("release: VFIO gives pages back dirty that were mapped for writing, others clean");
	}
	if (unmap(length, IOVA_PINNED))
		return refused("ioctl(VFIO_IOMMU_UNMAP_DMA)");
	munmap(memory, length);
	memory = NULL;
	ok("");
}

int main(int argc, char **argv)
{
	unsigned long offset, len, at;
	char line[128], how[16];

	if (argc != 3) {
		fprintf(stderr, "usage: vfio_edu FILE BYTES   (numbers of descriptors; longpin starts it)\n");
		return 2;
	}
	file = atoi(argv[1]);
	bytes = atoi(argv[2]);
	setvbuf(stdout, NULL, _IOLBF, 0);
	if (setup()) {
		fprintf(stderr, "vfio_edu: %s: %m\n", failed);
		errno = ENOSYS;
	}
	while (fgets(line, sizeof(line), stdin)) {
		if (!strcmp(line, "hello 1\n"))
			printf("pinner 1 vfio_edu 1.0\n");
		else if (sscanf(line, "pin %lu %lu", &offset, &len) == 2) {
			errno = ENOSYS;
			pin(offset, len);
		} else if (sscanf(line, "dma %lu %lu %lu", &offset, &len, &at) == 3)
			dma(offset, len, at);
		else if (sscanf(line, "release %15s", how) == 1)
			release(how);
		else if (!strcmp(line, "describe\n"))
			ok(read_only ? "VFIO type 1, mapped for reading: FOLL_PIN | FOLL_LONGTERM, given back clean" :
				       "VFIO type 1: FOLL_PIN | FOLL_LONGTERM | FOLL_WRITE, given back dirty");
		else if (!strcmp(line, "quit\n"))
			break;
		else {
			errno = ENOSYS;
			refused("a question that it does not know");
		}
	}
	return 0;
}
