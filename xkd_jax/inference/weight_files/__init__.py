"""Files of tensors, read as if anybody could have written them: nothing in them is executed."""
