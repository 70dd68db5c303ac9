// SPDX-License-Identifier: GPL-2.0
/*
 * Thin C side of longpin's virtio driver, see glue.h. Everything that
 * decides something is in Rust.
 *
 * All queues share one interrupt. Its handler only queues a work item, so that
 * completions are handled in process context: the Rust side may then use
 * mutexes, and drop the last reference to an object that sleeps when it dies.
 *
 * The work is disabled before longpin_port_ready() and after the reset, so an
 * interrupt that a device raises out of turn does nothing. It runs on a queue of
 * our own, which makes progress when memory is short: regions are taken back
 * from the device by it, and pages, by reclaim among others.
 *
 * So whatever the drain work may have to wait for must not wait for memory. That
 * is why nothing is added to a queue with more than GFP_NOWAIT, and why faults
 * of the device, which bring pages in, are handled on a queue of their own.
 */
#include <linux/dma-mapping.h>
#include <linux/module.h>
#include <linux/scatterlist.h>
#include <linux/slab.h>
#include <linux/virtio.h>
#include <linux/virtio_config.h>
#include <linux/workqueue.h>

#include "glue.h"

/* All bits of a register that nobody answers for: the device has gone. */
#define LONGPIN_NO_STATUS	0xff

struct longpin_port {
	struct virtio_device *vdev;
	struct virtqueue *queues[LONGPIN_NUM_QUEUES];
	struct work_struct drain;
	struct work_struct fail;
	void *device;		/* a reference, for drain and fail */
	void *bound;		/* what longpin_rust_remove() gets */
};

static struct workqueue_struct *longpin_wq;
static struct workqueue_struct *longpin_fault_wq;

struct device *longpin_port_dev(struct longpin_port *port)
{
	return &port->vdev->dev;
}

/*
 * The device that DMA is mapped for. With VIRTIO_F_ACCESS_PLATFORM it is the one
 * that the ring itself uses. Without it the device takes every address for a
 * physical one and virtqueue_dma_dev() gives NULL: mappings are then made for
 * the transport's device (the PCI function), and the caller must check that they
 * come out as physical addresses.
 */
struct device *longpin_port_dma_dev(struct longpin_port *port,
				    bool *translates)
{
	struct device *dev = virtqueue_dma_dev(port->queues[0]);

	*translates = dev;
	if (!dev)
		dev = port->vdev->dev.parent;
	return dev;
}

void longpin_port_read_config(struct longpin_port *port, void *buf,
			      unsigned int len)
{
	virtio_cread_bytes(port->vdev, 0, buf, len);
}

struct virtqueue *longpin_port_queue(struct longpin_port *port,
				     unsigned int index)
{
	return index < LONGPIN_NUM_QUEUES ? port->queues[index] : NULL;
}

/* For work that may wait for memory, for writeback, and for other such work. */
struct workqueue_struct *longpin_fault_queue(void)
{
	return longpin_fault_wq;
}

/*
 * From here on requests may be added and completions arrive. Takes over a
 * reference to the device, which longpin_rust_put() gets in the end.
 */
void longpin_port_ready(struct longpin_port *port, void *device)
{
	port->device = device;
	enable_work(&port->drain);
	virtio_device_ready(port->vdev);
}

/*
 * After this the device touches no memory, and the drain work neither runs nor
 * will run. Nobody may add requests any more.
 *
 * A device that was pulled out answers every read with ones. It does no DMA, and
 * vp_reset() would wait for its status to be zero for ever.
 */
void longpin_port_reset(struct longpin_port *port)
{
	struct virtio_device *vdev = port->vdev;

	if (vdev->config->get_status(vdev) == LONGPIN_NO_STATUS) {
		virtio_break_device(vdev);
		dev_warn(&vdev->dev, "device has gone, it was not reset\n");
	} else {
		virtio_reset_device(vdev);
	}
	disable_work_sync(&port->drain);
}

/* The caller serializes calls for one queue, with virtqueue_get_buf() too. */
int longpin_queue_add(struct virtqueue *vq, const void *request,
		      unsigned int request_len, void *response,
		      unsigned int response_len, void *token)
{
	struct scatterlist out, in, *sgs[] = { &out, &in };
	int err;

	sg_init_one(&out, request, request_len);
	sg_init_one(&in, response, response_len);
	err = virtqueue_add_sgs(vq, sgs, 1, 1, token, GFP_NOWAIT);
	if (err)
		return err;
	virtqueue_kick(vq);
	return 0;
}

static void longpin_drain(struct work_struct *work)
{
	struct longpin_port *port =
		container_of(work, struct longpin_port, drain);

	if (!longpin_rust_drain(port->device))
		queue_work(longpin_wq, &port->fail);
}

/*
 * Resets the device, which the drain work cannot do: the reset waits for it.
 */
static void longpin_fail(struct work_struct *work)
{
	struct longpin_port *port =
		container_of(work, struct longpin_port, fail);

	longpin_rust_fail(port->device);
}

static void longpin_interrupt(struct virtqueue *vq)
{
	struct longpin_port *port = vq->vdev->priv;

	queue_work(longpin_wq, &port->drain);
}

/*
 * The end of a port. The reset is for a failed probe, and for a device that had
 * gone when it was to be reset and is there again; else it is the second one.
 */
static void longpin_port_free(struct longpin_port *port)
{
	struct virtio_device *vdev = port->vdev;

	longpin_port_reset(port);
	vdev->config->del_vqs(vdev);
	vdev->priv = NULL;
	disable_work_sync(&port->fail);
	if (port->device)
		longpin_rust_put(port->device);
	kfree(port);
}

static int longpin_validate(struct virtio_device *vdev)
{
	if (virtio_has_feature(vdev, VIRTIO_F_VERSION_1))
		return 0;
	dev_err(&vdev->dev, "legacy device refused: offer VIRTIO_F_VERSION_1\n");
	return -ENODEV;
}

static int longpin_probe(struct virtio_device *vdev)
{
	struct virtqueue_info info[LONGPIN_NUM_QUEUES] = {
		{ .name = "control", .callback = longpin_interrupt },
		{ .name = "dma", .callback = longpin_interrupt },
		{ .name = "mmu", .callback = longpin_interrupt },
		{ .name = "faults", .callback = longpin_interrupt },
	};
	struct longpin_port *port;
	bool translates;
	int err;

	port = kzalloc_obj(*port);
	if (!port)
		return -ENOMEM;
	port->vdev = vdev;
	INIT_WORK(&port->drain, longpin_drain);
	disable_work(&port->drain);
	INIT_WORK(&port->fail, longpin_fail);
	vdev->priv = port;

	err = virtio_find_vqs(vdev, longpin_rust_nr_queues(port), port->queues,
			      info, NULL);
	if (err) {
		vdev->priv = NULL;
		kfree(port);
		return err;
	}
	dma_set_max_seg_size(longpin_port_dma_dev(port, &translates),
			     LONGPIN_MAX_SEGMENT);

	port->bound = longpin_rust_probe(port);
	if (IS_ERR(port->bound)) {
		err = PTR_ERR(port->bound);
		longpin_port_free(port);
		return err;
	}
	return 0;
}

static void longpin_remove(struct virtio_device *vdev)
{
	struct longpin_port *port = vdev->priv;

	longpin_rust_remove(port->bound);
	longpin_port_free(port);
}

#ifdef CONFIG_PM_SLEEP
/* Pinned pages and running DMA cannot be carried over a power cycle. */
static int longpin_freeze(struct virtio_device *vdev)
{
	return -EBUSY;
}
#endif

static const struct virtio_device_id longpin_ids[] = {
	{ LONGPIN_VIRTIO_ID, VIRTIO_DEV_ANY_ID },
	{ }
};
MODULE_DEVICE_TABLE(virtio, longpin_ids);

static struct virtio_driver longpin_driver = {
	.driver.name	= KBUILD_MODNAME,
	.id_table	= longpin_ids,
	.validate	= longpin_validate,
	.probe		= longpin_probe,
	.remove		= longpin_remove,
#ifdef CONFIG_PM_SLEEP
	.freeze		= longpin_freeze,
#endif
};

int longpin_driver_register(void)
{
	int err;

	longpin_wq = alloc_workqueue("longpin",
				     WQ_MEM_RECLAIM | WQ_HIGHPRI | WQ_PERCPU, 0);
	if (!longpin_wq)
		return -ENOMEM;
	longpin_fault_wq = alloc_workqueue("longpin_faults", WQ_UNBOUND, 0);
	if (!longpin_fault_wq) {
		err = -ENOMEM;
		goto no_faults;
	}
	err = register_virtio_driver(&longpin_driver);
	if (err)
		goto no_driver;
	return 0;

no_driver:
	destroy_workqueue(longpin_fault_wq);
no_faults:
	destroy_workqueue(longpin_wq);
	return err;
}

void longpin_driver_unregister(void)
{
	unregister_virtio_driver(&longpin_driver);
	destroy_workqueue(longpin_fault_wq);
	destroy_workqueue(longpin_wq);
}
