vmovups ymm1, ymmword ptr [rdi + rcx*4]
vfmadd231ps ymm0, ymm1, ymmword ptr [rsi + rcx*4]
add rcx, 8
cmp rcx, rdx
