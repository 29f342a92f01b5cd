"""Files read and written: text, videos, configs, and writes that leave nothing half done."""
