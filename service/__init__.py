"""Online: a bundle becomes answers, metrics and a live distillation gap."""
