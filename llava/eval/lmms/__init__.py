"""lmms-eval's LLaVA wrappers with the method's settings: found by lmms-eval through the entry point in `plugin`."""
