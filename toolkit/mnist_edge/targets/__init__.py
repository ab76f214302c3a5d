"""What a variant can be generated for: C99 for computers and microcontrollers, a page for browsers."""
