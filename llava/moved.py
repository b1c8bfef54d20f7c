"""Modules of the last release under their new names: old name -> new one."""

MODULES = {
    "llava.collector": "llava.utils",
    "llava.shipped": "llava.utils",
    "llava.serve.chat": "llava.chat.chat",
    "llava.serve.clip": "llava.chat.clip",
    "llava.serve.demo": "llava.chat.demo",
    "llava.serve.encoding": "llava.serve.encoder_pool",
    "llava.serve.family": "llava.chat.model_defaults",
    "llava.serve.memory": "llava.model.timing",
    "llava.serve.options": "llava.chat.options",
    "llava.serve.report": "llava.chat.answer_cost",
    "llava.serve.scratch": "llava.utils",
    "llava.serve.session": "llava.chat.session",
    "llava.serve.shared": "llava.serve.encoder_pool",
    "llava.serve.streaming": "llava.chat.streaming",
    "llava.serve.terminal": "llava.chat.terminal",
    "llava.serve.visualize": "llava.chat.visualize",
    "llava.serve.web": "llava.chat.web",
    "llava.serve.web_page": "llava.chat.web_page",
    "llava.serve.web_uploads": "llava.chat.web_uploads",
    "llava.serve.web_worker": "llava.chat.web_worker",
}
