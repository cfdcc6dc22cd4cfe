"""The noduleforge command: what is done before and after training."""
