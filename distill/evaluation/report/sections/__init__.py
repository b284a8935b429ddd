"""The sections of the report, a module each: a function `section` makes one of the content of `gap.json`."""
