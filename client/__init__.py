"""The hospital: import, cases, training, segmentation; nothing leaves but weights and counts."""
