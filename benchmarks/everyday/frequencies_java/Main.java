import java.util.HashMap;
import java.util.Map;

public class Main {
    public static void main(String[] args) {
        Map<String, Integer> counts = new HashMap<>();
        for (int i = 0; i < 1_000_000; i++) {
            counts.merge("key" + (i * 31 % 200_000), 1, Integer::sum);
        }
        System.out.println(counts.size());
    }
}
