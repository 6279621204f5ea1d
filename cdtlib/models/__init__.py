"""The networks of the method: translators, critics and inverters."""
