/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A small driver of longpin's accelerator in plain C: an example of a driver
 * that longpin did not write, see docs/own-driver.md. It makes /dev/longpin0
 * with the ioctls of longpin_uapi.h as far as most cases need them; pins for
 * reading and pins by get_user_pages() are refused.
 *
 * Two files include this one and say how pages are given back: sample_unpin().
 *
 * What matters, in the order of what goes wrong in drivers:
 *
 * - Pages are unpinned only when the device is known not to write any more: it
 *   has answered UNMAP, or it has been reset.
 * - A device that does not answer is reset after timeout_ms. No wait of
 *   this driver is longer, and none for its user is without a limit.
 * - Closing the file, and removal of the device, take the same way as RELEASE.
 */
#ifndef SAMPLE_DRIVER_H
#define SAMPLE_DRIVER_H

#include <linux/capability.h>
#include <linux/completion.h>
#include <linux/dma-mapping.h>
#include <linux/fs.h>
#include <linux/kref.h>
#include <linux/list.h>
#include <linux/minmax.h>
#include <linux/miscdevice.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/moduleparam.h>
#include <linux/mutex.h>
#include <linux/scatterlist.h>
#include <linux/slab.h>
#include <linux/spinlock.h>
#include <linux/uaccess.h>
#include <linux/virtio.h>
#include <linux/virtio_config.h>

#include "longpin_uapi.h"
#include "sample_wire.h"

#define SAMPLE_MAX_PROGRAMS	128	/* of a file, until they are collected */
#define SAMPLE_GUP_BATCH	512UL
#define SAMPLE_NO_STATUS	0xff	/* what a register reads that is gone */

static unsigned int timeout_ms = 10000;
module_param(timeout_ms, uint, 0444);
MODULE_PARM_DESC(timeout_ms, "how long the device may take to answer, 1 to 60000");

enum { SAMPLE_CONTROL, SAMPLE_DMA, SAMPLE_QUEUES };

/* One request under way, and its answer. */
struct sample_chain {
	struct completion done;
	bool answered;		/* else the device has gone */
	struct wire_response response;
};

struct sample_device {
	struct kref ref;	/* the binding, and each open file */
	struct virtio_device *vdev;
	struct device *dma_dev;
	bool translates;	/* DMA addresses need not be physical ones */
	struct virtqueue *queues[SAMPLE_QUEUES];
	spinlock_t queue_lock;
	struct miscdevice misc;

	struct mutex lock;	/* all below, files with regions and programs */
	bool dead;		/* it was reset: no DMA, no answers */
	struct list_head files;
	u32 last_region;
	u64 last_tag;
	struct sample_chain control;	/* one control request at a time */
	void *request;			/* its text: a page */
};

struct sample_file {
	struct sample_device *sample;
	struct list_head node;
	struct list_head regions;
	struct list_head programs;
	u32 nr_regions;
	u32 nr_programs;
};

struct sample_region {
	struct list_head node;
	u32 id;
	u32 mode;
	u64 length;
	struct page **pages;
	unsigned long nr_pages;
	struct sg_table sgt;
};

struct sample_program {
	struct kref ref;	/* the file, the device, whoever waits */
	struct list_head node;
	u64 tag;
	struct wire_dma request;
	struct sample_chain chain;
};

/* How pages go back: the difference between the two makes. */
static void sample_unpin(struct page **pages, unsigned long nr);
static const u32 sample_release;	/* the same, for the device's ledger */

static void sample_device_free(struct kref *ref)
{
	struct sample_device *sample =
		container_of(ref, struct sample_device, ref);

	kfree(sample->request);
	kfree(sample);
}

static void sample_program_free(struct kref *ref)
{
	kfree(container_of(ref, struct sample_program, ref));
}

/* ---- the device: requests, answers, its end ---- */

/* The device is through with a chain. May be called in interrupt context. */
static void sample_chain_end(struct sample_device *sample,
			     struct sample_chain *chain, bool answered)
{
	struct sample_program *program;

	chain->answered = answered;
	complete_all(&chain->done);
	if (chain == &sample->control)
		return;
	program = container_of(chain, struct sample_program, chain);
	kref_put(&program->ref, sample_program_free);
}

static void sample_interrupt(struct virtqueue *vq)
{
	struct sample_device *sample = vq->vdev->priv;
	struct sample_chain *chain;
	unsigned long flags;
	unsigned int len;

	spin_lock_irqsave(&sample->queue_lock, flags);
	do {
		virtqueue_disable_cb(vq);
		while ((chain = virtqueue_get_buf(vq, &len)))
			sample_chain_end(sample, chain,
					 len == sizeof(chain->response));
	} while (!virtqueue_enable_cb(vq));
	spin_unlock_irqrestore(&sample->queue_lock, flags);
}

static int sample_add(struct sample_device *sample, int queue, void *request,
		      size_t len, struct sample_chain *chain)
{
	struct virtqueue *vq = sample->queues[queue];
	struct scatterlist out, in, *sgs[] = { &out, &in };
	unsigned long flags;
	int err;

	sg_init_one(&out, request, len);
	sg_init_one(&in, &chain->response, sizeof(chain->response));
	spin_lock_irqsave(&sample->queue_lock, flags);
	err = virtqueue_add_sgs(vq, sgs, 1, 1, chain, GFP_ATOMIC);
	if (!err)
		virtqueue_kick(vq);
	spin_unlock_irqrestore(&sample->queue_lock, flags);
	return err;
}

/*
 * After this the device touches no memory, and no answer comes any more: what
 * was under way has ended without one. A device that was pulled out does no DMA
 * either, but would never say that it is reset.
 */
static void sample_quiesce(struct sample_device *sample)
{
	struct virtio_device *vdev = sample->vdev;
	struct sample_chain *chain;
	int i;

	lockdep_assert_held(&sample->lock);
	if (sample->dead)
		return;
	sample->dead = true;
	if (vdev->config->get_status(vdev) == SAMPLE_NO_STATUS)
		virtio_break_device(vdev);
	else
		virtio_reset_device(vdev);
	for (i = 0; i < SAMPLE_QUEUES; i++)
		while ((chain = virtqueue_detach_unused_buf(sample->queues[i])))
			sample_chain_end(sample, chain, false);
}

static int sample_errno(const struct sample_chain *chain)
{
	if (!chain->answered)
		return -EIO;
	switch (chain->response.status) {
	case WIRE_STATUS_OK:
		return 0;
	case WIRE_STATUS_NOT_FOUND:
		return -ENOENT;
	case WIRE_STATUS_LIMIT:
		return -ENOSPC;
	default:
		return -EIO;
	}
}

/* Sends sample->request and waits for the answer. */
static int sample_control(struct sample_device *sample, u32 op, size_t len)
{
	struct wire_head *head = sample->request;
	int err;

	lockdep_assert_held(&sample->lock);
	if (sample->dead)
		return -ENODEV;
	head->op = op;
	head->reserved = 0;
	head->tag = ++sample->last_tag;
	reinit_completion(&sample->control.done);
	err = sample_add(sample, SAMPLE_CONTROL, head, len, &sample->control);
	if (err)
		return err;
	if (!wait_for_completion_timeout(&sample->control.done,
					 msecs_to_jiffies(clamp(timeout_ms, 1U,
								60000U)))) {
		dev_err(&sample->vdev->dev, "no answer to request %u, device is reset\n",
			op);
		sample_quiesce(sample);
		return -ETIMEDOUT;
	}
	/* An answer without sense proves nothing: only a reset does. */
	if (!sample->control.answered)
		sample_quiesce(sample);
	return sample_errno(&sample->control);
}

/* ---- regions ---- */

/* Until this has succeeded, or the device is dead, it may write into the region. */
static void sample_make_quiet(struct sample_device *sample, u32 region)
{
	struct wire_unmap *unmap = sample->request;

	unmap->region = region;
	unmap->release = sample_release;
	/* Whatever it says but yes: a reset is the other proof that it is quiet. */
	if (sample_control(sample, WIRE_OP_UNMAP, sizeof(*unmap)))
		sample_quiesce(sample);
}

static void sample_give_back(struct sample_file *file,
			     struct sample_region *region)
{
	struct sample_device *sample = file->sample;

	lockdep_assert_held(&sample->lock);
	sample_make_quiet(sample, region->id);
	dma_unmap_sgtable(sample->dma_dev, &region->sgt, DMA_BIDIRECTIONAL, 0);
	sg_free_table(&region->sgt);
	sample_unpin(region->pages, region->nr_pages);
	kvfree(region->pages);
	list_del(&region->node);
	kfree(region);
	file->nr_regions--;
}

static struct sample_region *sample_find_region(struct sample_file *file, u32 id)
{
	struct sample_region *region;

	list_for_each_entry(region, &file->regions, node)
		if (region->id == id)
			return region;
	return NULL;
}

/* Tells the device where the region is, in as many parts as it takes. */
static int sample_announce(struct sample_device *sample,
			   struct sample_region *region,
			   const struct longpin_pin *pin)
{
	struct wire_map *map = sample->request;
	const u32 most = (PAGE_SIZE - sizeof(*map)) / sizeof(map->segments[0]);
	u32 left = region->sgt.nents;
	struct scatterlist *sg = region->sgt.sgl;
	bool first = true;
	int err;

	while (left) {
		u32 nr = min(left, most), i;

		left -= nr;
		map->region = region->id;
		map->flags = (first ? WIRE_MAP_FIRST : 0) |
			     (left ? 0 : WIRE_MAP_LAST);
		map->total_bytes = region->length;
		map->file_offset = pin->file_offset;
		map->run = pin->run;
		map->pin_mode = pin->mode;
		map->nr_segments = nr;
		for (i = 0; i < nr; i++, sg = sg_next(sg)) {
			map->segments[i].dma_addr = sg_dma_address(sg);
			map->segments[i].len = sg_dma_len(sg);
		}
		err = sample_control(sample, WIRE_OP_MAP,
				     struct_size(map, segments, nr));
		if (err)
			/*
			 * A part that is refused takes the parts before it along,
			 * one that was not answered has cost a reset, and no DMA
			 * begins before the last part.
			 */
			return err;
		first = false;
	}
	return 0;
}

/* Without VIRTIO_F_ACCESS_PLATFORM the device takes addresses for physical ones. */
static bool sample_can_address(struct sample_device *sample,
			       struct sg_table *sgt)
{
	struct scatterlist *sg;
	int i;

	if (sample->translates)
		return true;
	for_each_sgtable_dma_sg(sgt, sg, i)
		if (sg_dma_address(sg) != sg_phys(sg))
			return false;
	return true;
}

static int sample_pin_pages(struct sample_region *region, u64 addr, u32 mode)
{
	unsigned int gup = FOLL_WRITE;
	unsigned long pinned = 0;
	int got;

	if (mode == LONGPIN_MODE_LONGTERM)
		gup |= FOLL_LONGTERM;
	while (pinned < region->nr_pages) {
		if (fatal_signal_pending(current)) {
			got = -EINTR;
			goto unpin;
		}
		got = pin_user_pages_fast(addr + pinned * PAGE_SIZE,
					  min(region->nr_pages - pinned,
					      SAMPLE_GUP_BATCH),
					  gup, region->pages + pinned);
		if (got <= 0) {
			got = got ? : -EFAULT;
			goto unpin;
		}
		pinned += got;
	}
	return 0;

unpin:
	/* The device has not heard of them: there is nothing to be dirtied. */
	unpin_user_pages(region->pages, pinned);
	return got;
}

static int sample_ioctl_pin(struct sample_file *file, struct longpin_pin *pin)
{
	struct sample_device *sample = file->sample;
	struct sample_region *region;
	int err;

	if (!pin->length || !IS_ALIGNED(pin->addr | pin->length, PAGE_SIZE) ||
	    pin->reserved)
		return -EINVAL;
	if (pin->length > WIRE_MAX_REGION_BYTES)
		return -E2BIG;
	if (pin->access != LONGPIN_ACCESS_WRITE ||
	    (pin->mode != LONGPIN_MODE_PIN && pin->mode != LONGPIN_MODE_LONGTERM))
		return -EOPNOTSUPP;
	if (sample->dead)
		return -ENODEV;

	region = kzalloc(sizeof(*region), GFP_KERNEL);
	if (!region)
		return -ENOMEM;
	region->id = ++sample->last_region;
	region->mode = pin->mode;
	region->length = pin->length;
	region->nr_pages = pin->length >> PAGE_SHIFT;
	region->pages = kvmalloc_array(region->nr_pages, sizeof(*region->pages),
				       GFP_KERNEL);
	if (!region->pages) {
		err = -ENOMEM;
		goto free_region;
	}
	err = sample_pin_pages(region, pin->addr, pin->mode);
	if (err)
		goto free_pages;
	err = sg_alloc_table_from_pages(&region->sgt, region->pages,
					region->nr_pages, 0, region->length,
					GFP_KERNEL);
	if (err)
		goto unpin;
	err = dma_map_sgtable(sample->dma_dev, &region->sgt, DMA_BIDIRECTIONAL, 0);
	if (err)
		goto free_table;
	if (!sample_can_address(sample, &region->sgt)) {
		err = -EOPNOTSUPP;
		goto unmap;
	}
	err = sample_announce(sample, region, pin);
	if (err)
		goto unmap;

	list_add_tail(&region->node, &file->regions);
	file->nr_regions++;
	pin->region = region->id;
	pin->nr_pages = region->nr_pages;
	pin->nr_segments = region->sgt.nents;
	return 0;

unmap:
	dma_unmap_sgtable(sample->dma_dev, &region->sgt, DMA_BIDIRECTIONAL, 0);
free_table:
	sg_free_table(&region->sgt);
unpin:
	unpin_user_pages(region->pages, region->nr_pages);
free_pages:
	kvfree(region->pages);
free_region:
	kfree(region);
	return err;
}

static int sample_ioctl_release(struct sample_file *file,
				const struct longpin_release *release)
{
	struct sample_region *region = sample_find_region(file, release->region);

	if (!region)
		return -ENOENT;
	/* How it is given back is this driver's decision, whatever is asked for. */
	sample_give_back(file, region);
	return 0;
}

/* What cases ask after a pin: is the page still that of the file? */
static int sample_ioctl_query(struct sample_file *file,
			      struct longpin_query *query)
{
	struct sample_region *region = sample_find_region(file, query->region);
	struct sample_program *program;
	struct page *page;

	if (!region)
		return -ENOENT;
	if (query->page_index >= region->nr_pages)
		return -ERANGE;
	page = region->pages[query->page_index];
	query->mode = region->mode;
	query->access = LONGPIN_ACCESS_WRITE;
	query->length = region->length;
	query->nr_pages = region->nr_pages;
	query->nr_segments = region->sgt.nents;
	query->nr_running = 0;
	list_for_each_entry(program, &file->programs, node)
		if (program->request.region == region->id &&
		    !completion_done(&program->chain.done))
			query->nr_running++;
	query->page_zone = page_zonenum(page);
	/* Without translation, which PIN has made sure of, the two are the same. */
	query->page_dma_addr = file->sample->translates ? 0 : page_to_phys(page);
	memcpy(&query->page_flags, &page_folio(page)->flags,
	       sizeof(query->page_flags));
	query->page_has_mapping = !!READ_ONCE(page_folio(page)->mapping);
	query->folio_pages = folio_nr_pages(page_folio(page));
	return 0;
}

/* ---- programs ---- */

static struct sample_program *sample_find_program(struct sample_file *file,
						  u64 tag)
{
	struct sample_program *program;

	list_for_each_entry(program, &file->programs, node)
		if (program->tag == tag)
			return program;
	return NULL;
}

static void sample_forget_program(struct sample_file *file,
				  struct sample_program *program)
{
	list_del_init(&program->node);
	file->nr_programs--;
	kref_put(&program->ref, sample_program_free);
}

static int sample_ioctl_submit(struct sample_file *file,
			       struct longpin_submit *submit)
{
	struct sample_device *sample = file->sample;
	struct sample_region *region = sample_find_region(file, submit->region);
	struct sample_program *program;
	int err;

	if (sample->dead)
		return -ENODEV;
	if (!region)
		return -ENOENT;
	if (submit->offset > region->length ||
	    submit->length > region->length - submit->offset)
		return -ERANGE;
	if (file->nr_programs >= SAMPLE_MAX_PROGRAMS)
		return -EAGAIN;

	program = kzalloc(sizeof(*program), GFP_KERNEL);
	if (!program)
		return -ENOMEM;
	kref_init(&program->ref);
	init_completion(&program->chain.done);
	program->tag = ++sample->last_tag;
	program->request = (struct wire_dma) {
		.head = { .op = WIRE_OP_DMA, .tag = program->tag },
		.region = region->id,
		.order = submit->order,
		.direction = submit->direction,
		.payload = submit->payload,
		.offset = submit->offset,
		.length = submit->length,
		.seed = submit->seed,
		.generation = submit->generation,
		.run = submit->run,
		.rate_cells_per_s = submit->rate_cells_per_s,
		.passes = submit->passes,
		.duration_us = submit->duration_us,
		.cell_bytes = submit->cell_bytes,
		.fill = submit->fill,
		.start_delay_us = submit->start_delay_us,
	};
	kref_get(&program->ref);	/* the device's, see sample_chain_end() */
	err = sample_add(sample, SAMPLE_DMA, &program->request,
			 sizeof(program->request), &program->chain);
	if (err) {
		kfree(program);		/* nobody else has seen it */
		return err == -ENOSPC ? -EAGAIN : err;
	}
	list_add_tail(&program->node, &file->programs);
	file->nr_programs++;
	submit->program = program->tag;
	return 0;
}

/* Waits without the lock, so that others can stop the program meanwhile. */
static int sample_ioctl_wait(struct sample_file *file, struct longpin_wait *wait)
{
	struct sample_device *sample = file->sample;
	const struct wire_response *response;
	struct sample_program *program;
	int err = 0;
	long left;

	if (wait->reserved)
		return -EINVAL;
	program = sample_find_program(file, wait->program);
	if (!program)
		return -ENOENT;
	kref_get(&program->ref);
	mutex_unlock(&sample->lock);
	left = wait_for_completion_interruptible_timeout(&program->chain.done,
				msecs_to_jiffies(wait->timeout_ms));
	mutex_lock(&sample->lock);
	if (left <= 0) {
		err = left ? -EINTR : -ETIMEDOUT;
		goto put;
	}
	if (list_empty(&program->node)) {
		err = -ENOENT;		/* another thread has collected it */
		goto put;
	}
	sample_forget_program(file, program);
	if (!program->chain.answered) {
		err = sample->dead ? -ENODEV : -EIO;
		goto put;
	}
	response = &program->chain.response;
	wait->status = response->status;
	wait->crc32c = response->crc32c;
	wait->cells_done = response->cells_done;
	wait->last_generation = response->last_generation;
	wait->started_ns = response->started_ns;
	wait->finished_ns = response->finished_ns;
put:
	kref_put(&program->ref, sample_program_free);
	return err;
}

static int sample_ioctl_stop(struct sample_file *file,
			     const struct longpin_stop *stop)
{
	struct wire_stop *request = file->sample->request;

	if (!sample_find_program(file, stop->program))
		return -ENOENT;
	request->program = stop->program;
	return sample_control(file->sample, WIRE_OP_STOP, sizeof(*request));
}

/* ---- the file ---- */

static int sample_ioctl_info(struct sample_file *file, struct longpin_info *info)
{
	struct sample_file *other;
	struct sample_region *region;

	*info = (struct longpin_info) {
		.version = LONGPIN_VERSION,
		.device_alive = !file->sample->dead,
		.max_region_bytes = WIRE_MAX_REGION_BYTES,
		.nr_regions = file->nr_regions,
		.nr_programs = file->nr_programs,
	};
	list_for_each_entry(other, &file->sample->files, node)
		list_for_each_entry(region, &other->regions, node)
			info->pages_pinned += region->nr_pages;
	return 0;
}

static long sample_ioctl(struct file *filp, unsigned int cmd, unsigned long arg)
{
	struct sample_file *file = filp->private_data;
	struct mutex *lock = &file->sample->lock;
	void __user *user = (void __user *)arg;
	union {
		struct longpin_info info;
		struct longpin_pin pin;
		struct longpin_release release;
		struct longpin_submit submit;
		struct longpin_wait wait;
		struct longpin_stop stop;
		struct longpin_query query;
	} data;
	size_t size = _IOC_SIZE(cmd);
	long err;

	memset(&data, 0, sizeof(data));
	if (_IOC_TYPE(cmd) != LONGPIN_IOC_TYPE || size > sizeof(data))
		return -ENOTTY;
	if (_IOC_DIR(cmd) & _IOC_WRITE && copy_from_user(&data, user, size))
		return -EFAULT;
	if (mutex_lock_killable(lock))
		return -EINTR;
	switch (cmd) {
	case LONGPIN_IOC_INFO:
		err = sample_ioctl_info(file, &data.info);
		break;
	case LONGPIN_IOC_PIN:
		err = sample_ioctl_pin(file, &data.pin);
		break;
	case LONGPIN_IOC_RELEASE:
		err = sample_ioctl_release(file, &data.release);
		break;
	case LONGPIN_IOC_SUBMIT:
		err = sample_ioctl_submit(file, &data.submit);
		break;
	case LONGPIN_IOC_WAIT:
		err = sample_ioctl_wait(file, &data.wait);
		break;
	case LONGPIN_IOC_STOP:
		err = sample_ioctl_stop(file, &data.stop);
		break;
	case LONGPIN_IOC_QUERY:
		err = sample_ioctl_query(file, &data.query);
		break;
	default:
		err = -ENOTTY;
	}
	mutex_unlock(lock);
	/* What was made stays if its handle cannot be told: close() ends it. */
	if (!err && _IOC_DIR(cmd) & _IOC_READ && copy_to_user(user, &data, size))
		err = -EFAULT;
	return err;
}

static int sample_open(struct inode *inode, struct file *filp)
{
	struct sample_device *sample =
		container_of(filp->private_data, struct sample_device, misc);
	struct sample_file *file;

	/* Its user has the device write into memory, and pins without a limit. */
	if (!capable(CAP_SYS_RAWIO))
		return -EPERM;
	file = kzalloc(sizeof(*file), GFP_KERNEL);
	if (!file)
		return -ENOMEM;
	INIT_LIST_HEAD(&file->regions);
	INIT_LIST_HEAD(&file->programs);
	kref_get(&sample->ref);
	file->sample = sample;
	mutex_lock(&sample->lock);
	list_add_tail(&file->node, &sample->files);
	mutex_unlock(&sample->lock);
	filp->private_data = file;
	return 0;
}

static void sample_give_back_all(struct sample_file *file)
{
	struct sample_region *region, *next;

	list_for_each_entry_safe(region, next, &file->regions, node)
		sample_give_back(file, region);
}

static int sample_close(struct inode *inode, struct file *filp)
{
	struct sample_file *file = filp->private_data;
	struct sample_device *sample = file->sample;
	struct sample_program *program, *next;

	mutex_lock(&sample->lock);
	sample_give_back_all(file);
	/* The device's own references go when it answers, or is reset. */
	list_for_each_entry_safe(program, next, &file->programs, node)
		sample_forget_program(file, program);
	list_del(&file->node);
	mutex_unlock(&sample->lock);
	kfree(file);
	kref_put(&sample->ref, sample_device_free);
	return 0;
}

static const struct file_operations sample_fops = {
	.owner		= THIS_MODULE,
	.open		= sample_open,
	.release	= sample_close,
	.unlocked_ioctl	= sample_ioctl,
	.compat_ioctl	= compat_ptr_ioctl,
};

/* ---- binding ---- */

static int sample_validate(struct virtio_device *vdev)
{
	if (virtio_has_feature(vdev, VIRTIO_F_VERSION_1))
		return 0;
	dev_err(&vdev->dev, "legacy device refused: offer VIRTIO_F_VERSION_1\n");
	return -ENODEV;
}

static int sample_probe(struct virtio_device *vdev)
{
	struct virtqueue_info info[SAMPLE_QUEUES] = {
		{ .name = "control", .callback = sample_interrupt },
		{ .name = "dma", .callback = sample_interrupt },
	};
	struct sample_device *sample;
	u32 word[2];
	int err;

	virtio_cread_bytes(vdev, 0, word, sizeof(word));
	if (word[0] != WIRE_MAGIC || word[1] != WIRE_VERSION) {
		dev_err(&vdev->dev, "no accelerator of version %u (%#x, %u)\n",
			WIRE_VERSION, word[0], word[1]);
		return -ENODEV;
	}
	sample = kzalloc(sizeof(*sample), GFP_KERNEL);
	if (!sample)
		return -ENOMEM;
	kref_init(&sample->ref);
	mutex_init(&sample->lock);
	spin_lock_init(&sample->queue_lock);
	INIT_LIST_HEAD(&sample->files);
	init_completion(&sample->control.done);
	sample->vdev = vdev;
	sample->request = kzalloc(PAGE_SIZE, GFP_KERNEL);
	if (!sample->request) {
		err = -ENOMEM;
		goto put;
	}
	vdev->priv = sample;
	err = virtio_find_vqs(vdev, SAMPLE_QUEUES, sample->queues, info, NULL);
	if (err)
		goto put;
	sample->dma_dev = virtqueue_dma_dev(sample->queues[0]);
	sample->translates = sample->dma_dev;
	if (!sample->dma_dev)
		sample->dma_dev = vdev->dev.parent;
	dma_set_max_seg_size(sample->dma_dev, UINT_MAX);
	virtio_device_ready(vdev);

	sample->misc.minor = MISC_DYNAMIC_MINOR;
	sample->misc.name = "longpin0";
	sample->misc.mode = 0600;
	sample->misc.fops = &sample_fops;
	sample->misc.parent = &vdev->dev;
	err = misc_register(&sample->misc);
	if (err)
		goto reset;
	return 0;

reset:
	mutex_lock(&sample->lock);
	sample_quiesce(sample);
	mutex_unlock(&sample->lock);
	vdev->config->del_vqs(vdev);
put:
	vdev->priv = NULL;
	kref_put(&sample->ref, sample_device_free);
	return err;
}

/* Files may stay open: they get ENODEV, and hold no page of the device's. */
static void sample_remove(struct virtio_device *vdev)
{
	struct sample_device *sample = vdev->priv;
	struct sample_file *file;

	misc_deregister(&sample->misc);
	mutex_lock(&sample->lock);
	sample_quiesce(sample);
	list_for_each_entry(file, &sample->files, node)
		sample_give_back_all(file);
	mutex_unlock(&sample->lock);
	vdev->config->del_vqs(vdev);
	vdev->priv = NULL;
	kref_put(&sample->ref, sample_device_free);
}

#ifdef CONFIG_PM_SLEEP
/* Pinned pages and running DMA cannot be carried over a power cycle. */
static int sample_freeze(struct virtio_device *vdev)
{
	return -EBUSY;
}
#endif

static const struct virtio_device_id sample_ids[] = {
	{ WIRE_VIRTIO_ID, VIRTIO_DEV_ANY_ID },
	{ }
};
MODULE_DEVICE_TABLE(virtio, sample_ids);

static struct virtio_driver sample_virtio_driver = {
	.driver.name	= KBUILD_MODNAME,
	.id_table	= sample_ids,
	.validate	= sample_validate,
	.probe		= sample_probe,
	.remove		= sample_remove,
#ifdef CONFIG_PM_SLEEP
	.freeze		= sample_freeze,
#endif
};
module_virtio_driver(sample_virtio_driver);

MODULE_LICENSE("GPL");

#endif
