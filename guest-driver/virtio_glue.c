// SPDX-License-Identifier: GPL-2.0
/*
 * Thin C side of longpin's virtio driver, see virtio_glue.h. Everything that
 * decides something is in Rust.
 *
 * Both queues share one interrupt. Its handler only queues a work item, so that
 * completions are handled in process context: the Rust side may then use
 * mutexes, and drop the last reference to an object that sleeps when it dies.
 */
#include <linux/dma-mapping.h>
#include <linux/module.h>
#include <linux/scatterlist.h>
#include <linux/sizes.h>
#include <linux/slab.h>
#include <linux/virtio.h>
#include <linux/virtio_config.h>
#include <linux/workqueue.h>

#include "virtio_glue.h"

/* "Audio policy" of virtio 1.3; Linux has no driver for it. wire/src/dma.rs */
#define LONGPIN_VIRTIO_ID	38
#define LONGPIN_NUM_QUEUES	2
/* Largest region, so that a region of one piece may be one DMA segment. */
#define LONGPIN_MAX_SEGMENT	SZ_1G

struct longpin_port {
	struct virtio_device *vdev;
	struct virtqueue *queues[LONGPIN_NUM_QUEUES];
	struct work_struct drain;
	void *device;		/* what longpin_rust_drain() gets */
	void *bound;		/* what longpin_rust_remove() gets */
};

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

/* From here on requests may be added and completions arrive. */
void longpin_port_ready(struct longpin_port *port, void *device)
{
	port->device = device;
	virtio_device_ready(port->vdev);
}

/*
 * After this the device touches no memory, and neither the interrupt handler nor
 * the drain work runs or will run. Nobody may add requests any more.
 */
void longpin_port_reset(struct longpin_port *port)
{
	virtio_reset_device(port->vdev);
	cancel_work_sync(&port->drain);
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
	err = virtqueue_add_sgs(vq, sgs, 1, 1, token, GFP_KERNEL);
	if (err)
		return err;
	virtqueue_kick(vq);
	return 0;
}

static void longpin_drain(struct work_struct *work)
{
	struct longpin_port *port =
		container_of(work, struct longpin_port, drain);

	longpin_rust_drain(port->device);
}

static void longpin_interrupt(struct virtqueue *vq)
{
	struct longpin_port *port = vq->vdev->priv;

	queue_work(system_highpri_wq, &port->drain);
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
	};
	struct longpin_port *port;
	bool translates;
	int err;

	port = kzalloc_obj(*port);
	if (!port)
		return -ENOMEM;
	port->vdev = vdev;
	INIT_WORK(&port->drain, longpin_drain);
	vdev->priv = port;

	err = virtio_find_vqs(vdev, LONGPIN_NUM_QUEUES, port->queues, info, NULL);
	if (err)
		goto free_port;
	dma_set_max_seg_size(longpin_port_dma_dev(port, &translates),
			     LONGPIN_MAX_SEGMENT);

	port->bound = longpin_rust_probe(port);
	if (IS_ERR(port->bound)) {
		err = PTR_ERR(port->bound);
		goto del_vqs;
	}
	return 0;

del_vqs:
	longpin_port_reset(port);
	vdev->config->del_vqs(vdev);
free_port:
	vdev->priv = NULL;
	kfree(port);
	return err;
}

static void longpin_remove(struct virtio_device *vdev)
{
	struct longpin_port *port = vdev->priv;

	longpin_rust_remove(port->bound);
	vdev->config->del_vqs(vdev);
	vdev->priv = NULL;
	kfree(port);
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
	return register_virtio_driver(&longpin_driver);
}

void longpin_driver_unregister(void)
{
	unregister_virtio_driver(&longpin_driver);
}
