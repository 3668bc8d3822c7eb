"""Networks, weight files and the transfer from skeleton to lesions."""
