"""Training one network: the loop, its schedule, the device, several processes."""
