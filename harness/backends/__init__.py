"""Engines that run models: one protocol, one file each."""
