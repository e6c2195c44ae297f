"""The statistics: which differences between platforms the data can carry. The core knows plain arrays only."""
