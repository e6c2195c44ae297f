"""The statistics: which differences between platforms the data can carry."""
