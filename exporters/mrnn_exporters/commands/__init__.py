"""The commands of mrnn-exporters. Each imports what it needs inside its function."""

DATASETS = "flickr8k, flickr30k, iapr-tc12, coco, karpathy or folder"
