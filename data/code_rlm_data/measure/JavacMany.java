import java.nio.file.Path;
import javax.tools.JavaCompiler;
import javax.tools.ToolProvider;

/** Compiles FOLDER/Main.java of every folder given, in one virtual machine: starting javac takes most of its time. */
public class JavacMany {
    public static void main(String[] folders) {
        JavaCompiler compiler = ToolProvider.getSystemJavaCompiler();
        for (String folder : folders) {
            String source = Path.of(folder, "Main.java").toString();
            compiler.run(null, null, null, "-nowarn", "-proc:none", "-d", folder, source);
        }
    }
}
