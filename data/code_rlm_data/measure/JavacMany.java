import java.io.File;
import java.nio.file.Path;
import javax.tools.JavaCompiler;
import javax.tools.ToolProvider;

/** Compiles the source files of every folder given, in one virtual machine: starting javac takes most of its time. */
public class JavacMany {
    public static void main(String[] folders) {
        JavaCompiler compiler = ToolProvider.getSystemJavaCompiler();
        for (String folder : folders) {
            for (File source : Path.of(folder).toFile().listFiles((parent, name) -> name.endsWith(".java"))) {
                compiler.run(null, null, null, "-nowarn", "-proc:none", "-d", folder, source.getPath());
            }
        }
    }
}
