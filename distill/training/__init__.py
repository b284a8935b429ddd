"""Training: the loop, the losses, distilling a student and fine-tuning a teacher."""
